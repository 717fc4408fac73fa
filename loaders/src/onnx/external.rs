//! External data of tensors, confined to the model's folder.

use kiln_ir::Bytes;

use super::proto::TensorProto;
use super::tensor::{ExternalData, TensorProtoError};
use crate::folder::Folder;

impl ExternalData for Folder {
    fn bytes(&self, proto: &TensorProto, expected: usize) -> Result<Bytes, TensorProtoError> {
        let bad = TensorProtoError::ExternalData;
        let entry =
            |key: &str| proto.external_data.iter().rev().find(|e| e.key == key).map(|e| e.value.as_str());
        let number = |key: &str| match entry(key) {
            Some(text) => match text.trim().parse::<usize>() {
                Ok(n) => Ok(Some(n)),
                Err(_) => Err(bad(format!("{key} `{text}` is not a size"))),
            },
            None => Ok(None),
        };
        let location = entry("location").ok_or_else(|| bad("no location".to_owned()))?;
        let offset = number("offset")?.unwrap_or(0);
        let length = number("length")?.unwrap_or(expected);
        if length != expected {
            return Err(bad(format!("length is {length}, dtype and dims take {expected} bytes")));
        }
        let file = self.file(location).map_err(bad)?;
        let end = offset.checked_add(length).filter(|&end| end <= file.len());
        let Some(end) = end else {
            let size = file.len();
            return Err(bad(format!(
                "`{location}` has {size} bytes, offset {offset} and length {length} exceed it"
            )));
        };
        Ok(super::tensor::shared(file.slice(offset..end)))
    }
}
