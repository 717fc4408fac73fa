//! Reading, comparing and dividing `.npz` files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use npyz::{DType, NpyFile, TypeChar};
use zip::write::SimpleFileOptions;
use zip::{ZipArchive, ZipWriter};

/// The arrays of a file by name, each as the bytes of its `.npy`.
pub struct Arrays(BTreeMap<String, Vec<u8>>);

impl Arrays {
    /// Reads all arrays of `path`.
    pub fn read(path: &Path) -> Result<Self> {
        Self::read_file(path).with_context(|| format!("reading {}", path.display()))
    }

    fn read_file(path: &Path) -> Result<Self> {
        let mut archive = ZipArchive::new(File::open(path)?)?;
        let mut arrays = BTreeMap::new();
        for index in 0..archive.len() {
            let mut entry = archive.by_index(index)?;
            let name = entry.name()?.strip_suffix(".npy").context("an entry is not an .npy")?.to_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            arrays.insert(name, bytes);
        }
        Ok(Self(arrays))
    }

    /// Writes the arrays `names` to `path`.
    pub fn write(&self, names: &[&str], path: &Path) -> Result<()> {
        let mut writer = ZipWriter::new(File::create(path).with_context(|| path.display().to_string())?);
        for name in names {
            let bytes = self.0.get(*name).with_context(|| format!("there is no array `{name}`"))?;
            writer.start_file(format!("{name}.npy"), SimpleFileOptions::default())?;
            writer.write_all(bytes)?;
        }
        writer.finish()?;
        Ok(())
    }

    /// The shape of each array, as `NAME=DIMS`.
    pub fn shapes(&self) -> Result<Vec<String>> {
        let shape = |(name, bytes): (&String, &Vec<u8>)| {
            let shape = NpyFile::new(bytes.as_slice())?.shape().to_vec();
            let dims: Vec<String> = shape.iter().map(u64::to_string).collect();
            Ok(format!("{name}={}", dims.join(",")))
        };
        self.0.iter().map(shape).collect()
    }

    /// Keeps all but the arrays `names`.
    pub fn without(mut self, names: &[&str]) -> Self {
        self.0.retain(|name, _| !names.contains(&name.as_str()));
        self
    }

    /// The largest difference between an element of `self` and the one of `reference` in its place, divided by the
    /// largest magnitude in that array of the reference; the worst over the reference's arrays, of which `self` must
    /// have each, in the same dtype and, axes of size 1 aside (some references were saved squeezed), the same shape.
    pub fn difference(&self, reference: &Self) -> Result<f64> {
        self.worst(reference, |got, expected| got == expected)
    }

    /// The same where `exact` was computed in f64, and the arrays of `self` that are floats were in f32.
    pub fn error(&self, exact: &Self) -> Result<f64> {
        self.worst(exact, |got, expected| got == expected || (got, expected) == ("<f4", "<f8"))
    }

    fn worst(&self, reference: &Self, comparable: impl Fn(&str, &str) -> bool) -> Result<f64> {
        let mut worst = 0.0_f64;
        for (name, expected) in &reference.0 {
            let got = self.0.get(name).with_context(|| format!("there is no output `{name}`"))?;
            let got = numbers(got).with_context(|| format!("the output `{name}`"))?;
            let expected = numbers(expected).with_context(|| format!("the reference `{name}`"))?;
            let squeezed = |n: &Numbers| n.shape.iter().copied().filter(|&d| d != 1).collect::<Vec<_>>();
            if !comparable(&got.dtype, &expected.dtype) || squeezed(&got) != squeezed(&expected) {
                bail!(
                    "`{name}` is {} {:?}, not {} {:?}",
                    got.dtype,
                    got.shape,
                    expected.dtype,
                    expected.shape
                );
            }
            worst = worst.max(relative(&got.values, &expected.values));
        }
        Ok(worst)
    }
}

/// Whether two files hold the same arrays, bit by bit.
pub fn identical(a: &Path, b: &Path) -> Result<bool> {
    Ok(fs::read(a)? == fs::read(b)? || Arrays::read(a)?.0 == Arrays::read(b)?.0)
}

struct Numbers {
    dtype: String,
    shape: Vec<u64>,
    values: Vec<f64>,
}

fn numbers(bytes: &[u8]) -> Result<Numbers> {
    let file = NpyFile::new(bytes)?;
    let DType::Plain(kind) = file.dtype() else { bail!("it has a structured dtype") };
    let shape = file.shape().to_vec();
    let values = match (kind.type_char(), kind.num_bytes()) {
        (TypeChar::Float, Some(4)) => file.into_vec::<f32>()?.into_iter().map(f64::from).collect(),
        (TypeChar::Float, Some(8)) => file.into_vec::<f64>()?,
        (TypeChar::Int, Some(4)) => file.into_vec::<i32>()?.into_iter().map(f64::from).collect(),
        (TypeChar::Int, Some(8)) => file.into_vec::<i64>()?.into_iter().map(|value| value as f64).collect(),
        _ => bail!("the dtype {kind} is not compared here"),
    };
    Ok(Numbers { dtype: kind.to_string(), shape, values })
}

fn relative(got: &[f64], expected: &[f64]) -> f64 {
    let largest = expected.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
    let pairs = got.iter().zip(expected);
    // Not `max`, which would pass over a NaN.
    let difference = pairs.fold(0.0_f64, |worst, (got, expected)| {
        let difference = (got - expected).abs();
        if difference > worst || difference.is_nan() { difference } else { worst }
    });
    if difference == 0.0 { 0.0 } else { difference / largest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_relative_to_the_largest_reference() {
        assert_eq!(relative(&[1.0, -4.0], &[1.0, -4.0]), 0.0);
        assert_eq!(relative(&[1.0, -3.0], &[1.0, -4.0]), 0.25);
        assert_eq!(relative(&[0.0], &[0.0]), 0.0);
        assert_eq!(relative(&[1.0], &[0.0]), f64::INFINITY);
        assert!(relative(&[f64::NAN, 1.0], &[1.0, 1.0]).is_nan());
    }
}
