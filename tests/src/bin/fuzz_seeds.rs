//! Writes the seeds of the fuzz targets: `fuzz_seeds FOLDER`. They are small random models in the forms that the targets
//! read.

use std::fs;
use std::path::{Path, PathBuf};

use kiln::runtime::artifact::{Header, SectionKind, write_to};
use kiln_tests::choices::numbers;
use kiln_tests::random_model::{NUMBERS, grow, load};
use prost::Message;

/// Seeds of a target.
const COUNT: u64 = 24;

/// A seed is no larger.
const LARGE: usize = 6 << 10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = PathBuf::from(std::env::args().nth(1).ok_or("expected a folder")?);
    let (mut written, mut seed) = (0, 0);
    while written < COUNT {
        seed += 1;
        let (model, _) = grow(&numbers(seed, NUMBERS));
        let bytes = model.proto.encode_to_vec();
        if bytes.len() > LARGE {
            continue;
        }
        let module = load(&model.proto)?;
        let (text, _) = kiln::ir::text::print_module(&module);
        let compiled = kiln::compile(module, &kiln::Options::default())?;
        let mut file = std::io::Cursor::new(vec![]);
        write_to(&compiled.image, &mut file)?;
        for target in ["onnx", "pipeline"] {
            put(&folder, target, seed, &bytes)?;
        }
        put(&folder, "text", seed, text.as_bytes())?;
        put(&folder, "artifact", seed, &[&[1], plan(file.get_ref())?].concat())?;
        written += 1;
    }
    Ok(())
}

/// The plan's section of an artifact.
fn plan(file: &[u8]) -> Result<&[u8], Box<dyn std::error::Error>> {
    let header = Header::decode(file, &kiln::runtime::Origin::Memory)?;
    let at = SectionKind::ALL.iter().position(|&kind| kind == SectionKind::Plan).ok_or("no plan")?;
    let section = header.sections[at];
    let start = usize::try_from(section.offset)?;
    Ok(file.get(start..start + usize::try_from(section.len)?).ok_or("a plan beyond the file")?)
}

fn put(folder: &Path, target: &str, seed: u64, bytes: &[u8]) -> std::io::Result<()> {
    fs::create_dir_all(folder.join(target))?;
    fs::write(folder.join(target).join(format!("{seed:03}")), bytes)
}
