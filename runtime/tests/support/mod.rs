//! Small programs with hand-assembled kernels, for tests of the runtime alone.
#![allow(dead_code)]

use std::sync::Arc;

use kiln_ir::{DType, Dim, Tensor, Type};
use kiln_runtime::abi::ABI_VERSION;
use kiln_runtime::program::{
    Access, Action, BufferArg, Constant, Entry, Function, FunctionId, KernelCall, KernelId, KernelInfo, Port,
    Program, Slot, SlotId, Step, Storage, Target,
};
use kiln_runtime::{Datum, Executable, Image, Session, SessionOptions, Threads, plan};

/// `out[i] = a[i] + (u32)dims[0]` over 32-bit elements.
pub const ADD_INTEGER: [u8; 45] = [
    0x48, 0x8b, 0x07, // mov rax, [rdi]          buffers
    0x48, 0x8b, 0x08, // mov rcx, [rax]          a
    0x48, 0x8b, 0x50, 0x08, // mov rdx, [rax+8]  out
    0x48, 0x8b, 0x47, 0x08, // mov rax, [rdi+8]  dims
    0x44, 0x8b, 0x00, // mov r8d, [rax]
    0x48, 0x8b, 0x77, 0x20, // mov rsi, [rdi+32] begin
    0x4c, 0x8b, 0x4f, 0x28, // mov r9, [rdi+40]  end
    0x4c, 0x39, 0xce, // cmp rsi, r9
    0x73, 0x0e, // jae ret
    0x8b, 0x04, 0xb1, // mov eax, [rcx+rsi*4]
    0x44, 0x01, 0xc0, // add eax, r8d
    0x89, 0x04, 0xb2, // mov [rdx+rsi*4], eax
    0x48, 0xff, 0xc6, // inc rsi
    0xeb, 0xed, // jmp cmp
    0xc3, // ret
];

pub fn dim(text: &str) -> Dim {
    text.parse().unwrap()
}

/// A u32 tensor type; dims separated by commas.
pub fn u32s(dims: &str) -> Type {
    Type::tensor(DType::U32, dims.split(',').filter(|d| !d.is_empty()).map(dim).collect::<Vec<_>>())
}

pub fn slot(ty: Type, storage: Storage) -> Slot {
    Slot { ty, storage }
}

pub fn step(action: Action) -> Step {
    Step { action, provenance: vec![] }
}

/// A step that adds `addend` to `count` elements of slot `from` and writes them to slot `to`, in chunks of `grain`.
pub fn add(from: u32, to: u32, addend: &str, count: &str, grain: i64) -> Step {
    let bytes = dim(count) * Dim::known(4);
    let buffer =
        |slot, access| BufferArg { slot: SlotId(slot), offset: Dim::known(0), len: bytes.clone(), access };
    step(Action::Kernel(KernelCall {
        kernel: KernelId(0),
        buffers: vec![buffer(from, Access::Read), buffer(to, Access::Write)],
        dims: vec![dim(addend)],
        grid: dim(count),
        grain: Dim::known(grain),
        // Large enough to be cut into chunks.
        flops: Dim::known(1 << 40),
        bytes: bytes.clone(),
    }))
}

/// A program of the add kernel and these functions; function 0 is the entry `main`.
pub fn program(functions: Vec<Function>) -> Program {
    let main = &functions[0];
    let ports = |slots: &[SlotId], prefix: &str| {
        let port = |(i, s): (usize, &SlotId)| Port {
            name: format!("{prefix}{i}"),
            ty: main.slots[s.index()].ty.clone(),
        };
        slots.iter().enumerate().map(port).collect::<Vec<_>>()
    };
    let entries = vec![Entry {
        name: "main".to_owned(),
        function: FunctionId(0),
        inputs: ports(&main.inputs, "in"),
        outputs: ports(&main.outputs, "out"),
    }];
    Program {
        producer: "tests".to_owned(),
        abi_version: ABI_VERSION,
        target: Target { arch: std::env::consts::ARCH.to_owned(), features: vec!["sse2".to_owned()] },
        kernels: vec![KernelInfo {
            name: "add_integer".to_owned(),
            code_offset: 16,
            code_len: ADD_INTEGER.len() as u64,
            scratch_bytes: 128,
            buffers: 2,
            dims: 1,
            features: vec![],
        }],
        functions,
        entries,
        ..Program::default()
    }
}

pub fn image(program: Program) -> Image {
    let mut code = vec![0xcc; 16];
    code.extend_from_slice(&ADD_INTEGER);
    Image { program, code, constants: vec![] }
}

/// `in0: u32[shape]` through `steps` additions of 1, 2, 3, .. to `out0`, with `count` elements.
pub fn chain(shape: &str, count: &str, steps: u32, grain: i64) -> Function {
    let mut slots = vec![slot(u32s(shape), Storage::Input(0))];
    let mut list = vec![];
    for i in 1..=steps {
        slots.push(slot(u32s(shape), if i == steps { Storage::Output(0) } else { Storage::Arena }));
        list.push(add(i - 1, i, &i.to_string(), count, grain));
    }
    let mut function = Function {
        name: "chain".to_owned(),
        slots,
        steps: list,
        inputs: vec![SlotId(0)],
        outputs: vec![SlotId(steps)],
        arena: None,
    };
    function.arena = plan::fixed_layout(&function).unwrap();
    function
}

/// What [`chain`] computes.
pub fn chain_result(input: &[u32], steps: u32) -> Vec<u32> {
    let sum: u32 = (1..=steps).sum();
    input.iter().map(|v| v.wrapping_add(sum)).collect()
}

/// A chain on a constant as well: `out1` is the constant plus 5.
pub fn chain_with_constant(elements: usize) -> Image {
    let mut function = chain(&elements.to_string(), &elements.to_string(), 6, 64);
    function
        .slots
        .push(slot(u32s(&elements.to_string()), Storage::Constant(kiln_runtime::program::ConstantId(0))));
    function.slots.push(slot(u32s(&elements.to_string()), Storage::Output(1)));
    function.steps.push(add(7, 8, "5", &elements.to_string(), 64));
    function.outputs.push(SlotId(8));
    function.arena = plan::fixed_layout(&function).unwrap();
    let mut program = program(vec![function]);
    program.constants.push(Constant { name: "w".to_owned(), dtype: DType::U32, dims: vec![elements as u64] });
    let mut image = image(program);
    let data: Vec<u8> = (0..elements as u32).flat_map(|v| (v * 7).to_le_bytes()).collect();
    image.constants.push(data.into());
    image
}

pub fn session(image: Image, threads: usize) -> Session {
    session_with(image, SessionOptions { pool: Some(Threads::new(threads)), ..SessionOptions::default() })
}

pub fn session_with(image: Image, options: SessionOptions) -> Session {
    Session::new(Arc::new(Executable::from_image(image).unwrap()), options)
}

pub fn tensor(dims: &[usize], values: &[u32]) -> Datum {
    Datum::Tensor(Tensor::from_slice(dims, values).unwrap())
}

pub fn values(datum: &Datum) -> Vec<u32> {
    datum.as_tensor().unwrap().to_vec().unwrap()
}

/// A small generator of random numbers (Steele, Lea, Flood: SplitMix64), so that mutations are the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// A path in the system's temporary folder, removed when dropped.
pub struct TempPath(pub std::path::PathBuf);

impl TempPath {
    pub fn new(name: &str) -> Self {
        TempPath(std::env::temp_dir().join(format!("kiln-{}-{name}", std::process::id())))
    }
}

impl Drop for TempPath {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
