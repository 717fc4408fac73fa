//! Artifacts: what is written is what runs; what is damaged or foreign is refused.
#![cfg(target_arch = "x86_64")]

mod support;

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use kiln_runtime::artifact::{self, FORMAT_VERSION, Header, SectionKind, checksum};
use kiln_runtime::program::{Action, SlotId, Storage};
use kiln_runtime::*;
use support::*;

fn bytes_of(image: &Image) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    artifact::write_to(image, &mut out).unwrap();
    out.into_inner()
}

fn open_bytes(path: &TempPath, bytes: &[u8]) -> Result<Executable, LoadError> {
    // A new file each time: an older mapping may still be alive.
    let _ = std::fs::remove_file(&path.0);
    std::fs::write(&path.0, bytes).unwrap();
    Executable::open(&path.0)
}

fn run(exe: Executable) -> Vec<Datum> {
    let session =
        Session::new(Arc::new(exe), SessionOptions { threads: Some(1), ..SessionOptions::default() });
    let input: Vec<u32> = (0..256).collect();
    session.run("main", &[tensor(&[256], &input)]).unwrap()
}

#[test]
fn artifacts_run_as_the_image_does() {
    let image = chain_with_constant(256);
    let path = TempPath::new("roundtrip.kiln");
    let size = artifact::write(&image, &path.0).unwrap();
    assert_eq!(size.file, std::fs::metadata(&path.0).unwrap().len());
    let exe = Executable::open(&path.0).unwrap();
    assert_eq!(*exe.program(), image.program);
    assert_eq!(exe.code(), image.code);
    let expected = run(Executable::from_image(image).unwrap());
    assert_eq!(run(exe), expected);
    assert_eq!(values(&expected[1])[3], 3 * 7 + 5);
}

#[test]
fn writing_replaces_a_file_and_leaves_its_mapping_alone() {
    let path = TempPath::new("replace.kiln");
    artifact::write(&chain_with_constant(256), &path.0).unwrap();
    let old = Executable::open(&path.0).unwrap();
    let mut other = chain_with_constant(256);
    other.constants[0] = vec![0u8; 1024].into();
    artifact::write(&other, &path.0).unwrap();
    assert_eq!(values(&run(old)[1])[2], 19);
    assert_eq!(values(&run(Executable::open(&path.0).unwrap())[1])[2], 5);
    let folder = path.0.parent().unwrap();
    let name = path.0.file_name().unwrap().to_str().unwrap();
    let left = std::fs::read_dir(folder).unwrap().filter(|e| {
        let entry = e.as_ref().unwrap().file_name();
        let entry = entry.to_string_lossy();
        entry.starts_with(name) && entry != name
    });
    assert_eq!(left.count(), 0);
}

#[test]
fn files_are_page_aligned_sections() {
    let bytes = bytes_of(&chain_with_constant(256));
    let header = Header::decode(&bytes, &Origin::Memory).unwrap();
    for (kind, section) in SectionKind::ALL.into_iter().zip(&header.sections) {
        assert_eq!(section.offset % artifact::PAGE, 0, "{}", kind.name());
        let range = section.offset as usize..(section.offset + section.len) as usize;
        assert_eq!(checksum(&bytes[range]), section.checksum);
    }
    assert!(artifact::is_artifact(&bytes) && !artifact::is_artifact(b"\x7fELF"));
}

#[test]
fn damage_is_an_error_or_changes_nothing() {
    let bytes = bytes_of(&chain_with_constant(256));
    let path = TempPath::new("damage.kiln");
    let expected = run(open_bytes(&path, &bytes).unwrap());
    let header = Header::decode(&bytes, &Origin::Memory).unwrap();
    let mut random = Random(1);
    let mut refused = 0;
    for round in 0..1000 {
        // Every region gets its share: header, sections, and the padding between them.
        let (start, len) = match round % 5 {
            0 => (0, Header::LEN),
            at @ 1..=3 => (header.sections[at - 1].offset as usize, header.sections[at - 1].len as usize),
            _ => (0, bytes.len()),
        };
        let mut damaged = bytes.clone();
        for _ in 0..=random.below(3) {
            damaged[start + random.below(len)] ^= 1 << random.below(8);
        }
        match open_bytes(&path, &damaged) {
            Ok(exe) => assert_eq!(run(exe), expected),
            Err(error) => {
                refused += 1;
                assert!(error.to_string().starts_with(&path.0.display().to_string()), "{error}");
            }
        }
    }
    assert!(refused >= 790, "{refused}");
}

#[test]
fn truncation_is_an_error() {
    let bytes = bytes_of(&chain_with_constant(256));
    let path = TempPath::new("truncated.kiln");
    let mut random = Random(2);
    for round in 0..300 {
        let len = if round < 100 { round * 3 } else { random.below(bytes.len()) };
        let error = open_bytes(&path, &bytes[..len]).unwrap_err();
        match error {
            LoadError::Truncated { expected, found, .. } => {
                assert!(len > 0 && found == len as u64 && expected > found);
            }
            LoadError::Foreign { .. } => assert_eq!(len, 0),
            other => panic!("{len} bytes: {other}"),
        }
    }
    let longer: Vec<u8> = bytes.iter().copied().chain([0]).collect();
    assert!(matches!(open_bytes(&path, &longer), Err(LoadError::Corrupted { section: "file length", .. })));
}

#[test]
fn foreign_files_and_other_versions_are_named() {
    let path = TempPath::new("foreign.kiln");
    assert!(matches!(open_bytes(&path, b"ONNX, or anything else"), Err(LoadError::Foreign { .. })));
    assert!(matches!(Executable::open(Path::new("/nonexistent.kiln")), Err(LoadError::Io { .. })));
    assert!(matches!(Executable::open(&std::env::temp_dir()), Err(LoadError::Foreign { .. })));
    let mut bytes = bytes_of(&chain_with_constant(256));
    bytes[8..12].copy_from_slice(&(FORMAT_VERSION + 1).to_le_bytes());
    let error = open_bytes(&path, &bytes).unwrap_err();
    assert!(matches!(error, LoadError::Version { found, .. } if found == FORMAT_VERSION + 1), "{error}");
}

#[test]
fn other_machines_are_named() {
    let path = TempPath::new("machine.kiln");
    let open = |change: &dyn Fn(&mut Image)| {
        let mut image = chain_with_constant(256);
        change(&mut image);
        open_bytes(&path, &bytes_of(&image)).unwrap_err()
    };
    let error = open(&|image| image.program.target.arch = "riscv64".to_owned());
    assert!(matches!(&error, LoadError::Arch { needed, .. } if needed == "riscv64"), "{error}");
    let error = open(&|image| image.program.kernels[0].features.push("avx1024".to_owned()));
    assert!(matches!(&error, LoadError::Features { missing, .. } if missing == &["avx1024"]), "{error}");
    let error = open(&|image| image.program.abi_version += 1);
    assert!(error.to_string().contains("kernel ABI"), "{error}");
}

/// A change to an image that makes its plan invalid, and a part of the error.
type Forgery = (&'static str, fn(&mut Image));

#[test]
fn forged_plans_are_refused() {
    let forgeries: &[Forgery] = &[
        ("outside the code", |i| i.program.kernels[0].code_offset = u64::MAX),
        ("outside the code", |i| i.program.kernels[0].code_len = 1 << 20),
        ("more than 4 GiB", |i| i.program.kernels[0].scratch_bytes = u64::MAX),
        ("does not exist", |i| kernel_call(i).kernel.0 = 9),
        ("2 buffers and 1 integers", |i| kernel_call(i).dims.clear()),
        ("2 buffers and 1 integers", |i| drop(kernel_call(i).buffers.pop())),
        ("slot that does not exist", |i| kernel_call(i).buffers[0].slot = SlotId(1000)),
        ("which is read-only", |i| kernel_call(i).buffers[1].slot = SlotId(0)),
        ("which is read-only", |i| kernel_call(i).buffers[1].slot = SlotId(7)),
        ("constant does not exist", |i| {
            i.program.functions[0].slots[7].storage = Storage::Constant(program::ConstantId(3));
        }),
        ("larger than its constant", |i| i.program.functions[0].slots[7].ty = u32s("257")),
        ("does not take the 1024 bytes", |i| i.program.constants[0].dims = vec![u64::MAX, 2]),
        ("view of nothing", |i| {
            i.program.functions[0].slots[1].storage = Storage::View { of: SlotId(1), offset: dim("0") };
        }),
        ("stored as an input", |i| i.program.functions[0].slots[1].storage = Storage::Input(0)),
        ("stored as an output", |i| i.program.functions[0].slots[1].storage = Storage::Output(0)),
        ("not stored as an input", |i| i.program.functions[0].inputs.push(SlotId(1))),
        ("not one of its slots", |i| i.program.functions[0].outputs[0] = SlotId(77)),
        ("live values overlap", |i| {
            i.program.functions[0].arena.as_mut().unwrap().offsets.fill(Some(0));
        }),
        ("live values overlap", |i| i.program.functions[0].arena.as_mut().unwrap().size = 64),
        ("no fixed size", |i| i.program.functions[0].slots[1].ty = u32s("N")),
        ("known rank", |i| {
            i.program.functions[0].slots[1].ty = kiln_ir::Type::unranked(kiln_ir::DType::U32);
            i.program.functions[0].arena = None;
        }),
        ("function does not exist", |i| i.program.entries[0].function.0 = 5),
        ("ports do not match", |i| drop(i.program.entries[0].inputs.pop())),
        ("is not unique", |i| i.program.entries[0].outputs[1].name = "out0".to_owned()),
        ("no host graph `g`", |i| {
            let action = Action::Host { graph: "g".to_owned(), operands: vec![], results: vec![] };
            i.program.functions[0].steps.push(step(action));
        }),
        ("state does not exist", |i| {
            let action = Action::StateAssign { state: program::StateId(0), value: SlotId(0) };
            i.program.functions[0].steps.push(step(action));
        }),
    ];
    for (expected, forge) in forgeries {
        let mut image = chain_with_constant(256);
        forge(&mut image);
        let error = Executable::from_image(image).expect_err(expected);
        let message = error.to_string();
        assert!(
            matches!(error, LoadError::Plan { .. }) && message.contains(expected),
            "{expected}: {message}"
        );
    }
}

fn kernel_call(image: &mut Image) -> &mut program::KernelCall {
    match &mut image.program.functions[0].steps[0].action {
        Action::Kernel(call) => call,
        other => panic!("{other:?}"),
    }
}

#[test]
fn mutated_plans_with_valid_checksums_never_crash_the_loader() {
    let bytes = bytes_of(&chain_with_constant(256));
    let header = Header::decode(&bytes, &Origin::Memory).unwrap();
    let path = TempPath::new("mutated.kiln");
    let plan = header.sections[0];
    let range = plan.offset as usize..(plan.offset + plan.len) as usize;
    let mut random = Random(3);
    let mut refused = 0;
    for _ in 0..1000 {
        let mut forged = bytes.clone();
        for _ in 0..=random.below(4) {
            forged[range.start + random.below(range.len())] = random.next() as u8;
        }
        let mut header = header;
        header.sections[0].checksum = checksum(&forged[range.clone()]);
        forged[..Header::LEN].copy_from_slice(&header.encode());
        refused += usize::from(open_bytes(&path, &forged).is_err());
    }
    assert!(refused > 500, "{refused}");
}
