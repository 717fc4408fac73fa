//! Image files to pixels. What a file claims of its size is checked against the limits before anything is decoded.

use std::io::Cursor;

use hayro_jpeg2000::{ColorSpace, DecodeSettings, DecoderContext, Image};
use image::{ImageReader, Limits};

use crate::op::PixelFormat;
use crate::{Bytes, DType, Tensor};

use super::cx::Cx;
use super::fault::{Fault, invalid};
use super::jpeg;

/// Rows of interleaved red, green and blue.
struct Picture {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

/// ONNX ImageDecoder.
pub(super) fn decode(cx: &mut Cx<'_>, file: &Tensor, pixels: PixelFormat) -> Result<Tensor, Fault> {
    let data = file.bytes();
    let picture = match data {
        [0, 0, 0, 12, b'j', b'P', ..] | [0xff, 0x4f, 0xff, 0x51, ..] => jpeg2000(cx, data)?,
        [0xff, 0xd8, ..] => match jpeg::decode(cx, data)? {
            Some(jpeg::Pixels { width, height, rgb }) => Picture { width, height, rgb },
            None => common(cx, data)?,
        },
        _ => common(cx, data)?,
    };
    let Picture { width, height, rgb } = picture;
    let (channels, bytes) = match pixels {
        PixelFormat::Rgb => (3, rgb),
        PixelFormat::Bgr => (3, rgb.chunks_exact(3).flat_map(|p| [p[2], p[1], p[0]]).collect()),
        PixelFormat::Gray => (1, rgb.chunks_exact(3).map(luma).collect()),
    };
    Ok(Tensor::new(DType::U8, &[height, width, channels], Bytes::copied(&bytes))?)
}

/// ITU-R BT.601 luma in 16 bits, as Pillow and libjpeg round it.
fn luma(pixel: &[u8]) -> u8 {
    let sum = 19_595 * u32::from(pixel[0]) + 38_470 * u32::from(pixel[1]) + 7_471 * u32::from(pixel[2]);
    let [_, _, high, _] = (sum + 0x8000).to_le_bytes();
    high
}

/// Refuses a size beyond the limits, and counts the work.
fn admit(cx: &mut Cx<'_>, width: u32, height: u32) -> Result<(usize, usize), Fault> {
    let (width, height) = (width as usize, height as usize);
    let count = cx.admit(DType::U8, &[height, width, 3])?;
    cx.tick(count)?;
    Ok((width, height))
}

fn common(cx: &mut Cx<'_>, data: &[u8]) -> Result<Picture, Fault> {
    let bad = |e: &dyn std::fmt::Display| Fault::Operands(format!("the image does not decode: {e}"));
    let reader = || ImageReader::new(Cursor::new(data)).with_guessed_format().map_err(|e| bad(&e));
    let (width, height) = reader()?.into_dimensions().map_err(|e| bad(&e))?;
    let (width, height) = admit(cx, width, height)?;
    let mut limits = Limits::default();
    // Decoders keep 16-bit channels and a copy.
    limits.max_alloc = Some(cx.limits.max_bytes.saturating_mul(4));
    let mut reader = reader()?;
    reader.limits(limits);
    let rgb = reader.decode().map_err(|e| bad(&e))?.into_rgb8().into_raw();
    Ok(Picture { width, height, rgb })
}

fn jpeg2000(cx: &mut Cx<'_>, data: &[u8]) -> Result<Picture, Fault> {
    let bad = |e: &dyn std::fmt::Display| Fault::Operands(format!("the image does not decode: {e}"));
    let image = Image::new(data, &DecodeSettings::default()).map_err(|e| bad(&e))?;
    let (width, height) = admit(cx, image.width(), image.height())?;
    let alpha = usize::from(image.has_alpha());
    let colors = match image.color_space() {
        ColorSpace::Gray => 1,
        ColorSpace::RGB => 3,
        ColorSpace::Icc { num_channels, .. } => usize::from(*num_channels),
        ColorSpace::CMYK | ColorSpace::Unknown { .. } => 0,
    };
    let stride = colors + alpha;
    let wrong = || invalid(format!("a JPEG 2000 image of {colors} colors"));
    if !matches!(colors, 1 | 3) {
        return wrong();
    }
    // The decoder computes in f32.
    cx.admit(DType::F32, &[height, width, stride])?;
    let mut context = DecoderContext::default();
    let bytes = image.decode(&mut context).map_err(|e| bad(&e))?.data_u8();
    if bytes.len() != width * height * stride {
        return wrong();
    }
    let pixel = |p: &[u8]| if colors == 1 { [p[0]; 3] } else { [p[0], p[1], p[2]] };
    let rgb = bytes.chunks_exact(stride).flat_map(pixel).collect();
    Ok(Picture { width, height, rgb })
}
