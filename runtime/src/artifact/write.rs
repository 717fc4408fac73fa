//! Writing an artifact.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use super::checksum::checksum;
use super::format::{Header, PAGE, Section};
use crate::abi::{ALIGNMENT, SLACK};
use crate::error::LoadError;
use crate::image::Image;

/// What a written artifact consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArtifactSize {
    /// Bytes of the file.
    pub file: u64,
    /// Bytes of the plan.
    pub plan: u64,
    /// Bytes of machine code.
    pub code: u64,
    /// Bytes of constants.
    pub weights: u64,
}

/// Writes `image` to `path`. The file appears under its name only when it is complete; a file that was there before
/// is replaced, not changed, so that processes which mapped it keep what they had.
pub fn write(image: &Image, path: &Path) -> Result<ArtifactSize, LoadError> {
    let io_error = |source| LoadError::Io { path: path.to_owned(), source };
    let mut name =
        path.file_name().ok_or_else(|| io_error(io::ErrorKind::InvalidFilename.into()))?.to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    let partial = path.with_file_name(name);
    let written = File::create(&partial).and_then(|file| {
        let size = write_to(image, BufWriter::new(file))?;
        std::fs::rename(&partial, path)?;
        Ok(size)
    });
    written.map_err(|source| {
        // The unfinished file is of no use to anybody; that it may not exist is fine.
        let _ = std::fs::remove_file(&partial);
        io_error(source)
    })
}

/// Writes `image` from the start of `out`.
pub fn write_to<W: Write + Seek>(image: &Image, mut out: W) -> io::Result<ArtifactSize> {
    let mut offsets = Vec::with_capacity(image.constants.len());
    let mut weights_len = 0u64;
    for constant in &image.constants {
        offsets.push(weights_len);
        weights_len =
            (weights_len + constant.bytes().len() as u64 + SLACK as u64).next_multiple_of(ALIGNMENT as u64);
    }
    let plan = postcard::to_stdvec(&(&offsets, &image.program)).map_err(io::Error::other)?;

    let plan_at = (Header::LEN as u64).next_multiple_of(PAGE);
    let code_at = (plan_at + plan.len() as u64).next_multiple_of(PAGE);
    let weights_at = (code_at + image.code.len() as u64).next_multiple_of(PAGE);
    let file_len = weights_at + weights_len;

    pad_to(&mut out, 0, plan_at)?;
    out.write_all(&plan)?;
    pad_to(&mut out, plan_at + plan.len() as u64, code_at)?;
    out.write_all(&image.code)?;
    pad_to(&mut out, code_at + image.code.len() as u64, weights_at)?;
    let mut sum = super::checksum::Checksum::new();
    for (constant, &offset) in image.constants.iter().zip(&offsets) {
        let bytes = constant.bytes();
        out.write_all(bytes)?;
        sum.update(bytes);
        let end = offset + bytes.len() as u64;
        let next = (end + SLACK as u64).next_multiple_of(ALIGNMENT as u64);
        pad_to(&mut out, end, next)?;
        sum.update_zeros(next - end);
    }
    let header = Header {
        file_len,
        sections: [
            Section { offset: plan_at, len: plan.len() as u64, checksum: checksum(&plan) },
            Section { offset: code_at, len: image.code.len() as u64, checksum: checksum(&image.code) },
            Section { offset: weights_at, len: weights_len, checksum: sum.finish() },
        ],
    };
    out.seek(SeekFrom::Start(0))?;
    out.write_all(&header.encode())?;
    out.flush()?;
    Ok(ArtifactSize {
        file: file_len,
        plan: plan.len() as u64,
        code: image.code.len() as u64,
        weights: weights_len,
    })
}

fn pad_to(out: &mut impl Write, from: u64, to: u64) -> io::Result<()> {
    io::copy(&mut io::Read::take(io::repeat(0), to.saturating_sub(from)), out).map(|_| ())
}
