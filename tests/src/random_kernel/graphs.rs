//! Kernels that the compiler makes of random graphs, on what they meet when the graph runs.

use std::collections::HashMap;
use std::sync::Mutex;

use kiln_codegen::build::{LowerKernel, MachineCode, Tuning, compile_with};
use kiln_codegen::kir::Kernel;
use kiln_ir::op::{Composite, Conv, Layout};
use kiln_ir::{Build, DType, Dim, Float, GraphBuilder, Module, Tensor, Type};
use kiln_runtime::image::Image;
use kiln_runtime::plan::root;
use kiln_runtime::program::{Action, Function, KernelCall, SlotId, Storage};

use crate::agreement::Case;
use crate::choices::Choices;
use crate::random_graph::{self, Growth, Variety};

/// Sizes of symbols.
fn size(name: &str) -> i64 {
    if name == "N" { 3 } else { 5 }
}

pub fn grow(c: &mut Choices<'_>) -> Vec<Case> {
    let (lanes, dots) = (c.of(&[16, 8, 4]), c.flag());
    let tiles = lanes == 16 && !dots;
    let tuning = Tuning { lanes, tiles, reads_lines: lanes > 4, winograd: true, dots };
    let mut module = match c.below(5) {
        0 => attention(c),
        1 => convolution(c),
        n => {
            let growth = Growth { variety: Variety::Smooth, symbolic: n == 2, operators: 8 };
            random_graph::grow(c.rest(), growth)
        }
    };
    if kiln_passes::optimize(&mut module, &Default::default()).is_err() {
        return vec![];
    }
    kernels_of(&module, tuning)
}

/// Attention of any lengths, with or without a mask.
fn attention(c: &mut Choices<'_>) -> Module {
    let (heads, length, keys, width) =
        (c.between(1, 3), c.between(1, 40), c.between(1, 40), c.of(&[4, 8, 16, 24]));
    let mut module = Module::new();
    let mut b = GraphBuilder::new(&mut module, "main");
    let mut input = |name: &str, dims: &[i64]| b.input(name, Type::fixed(DType::F32, dims));
    let q = input("q", &[1, heads, length, width]);
    let (k, v) = (input("k", &[1, heads, keys, width]), input("v", &[1, heads, keys, width]));
    let mask = c.flag();
    let mut operands = vec![q, k, v];
    if mask {
        operands.push(input("mask", &[1, 1, length, keys]));
    }
    let op = Composite::Attention {
        scale: Float::new(0.25),
        mask,
        causal: c.flag(),
        causal_from_end: c.flag(),
        softcap: Float::new(c.of(&[0.0, 2.0])),
    };
    let y = b.add1(op, &operands).expect("operands of attention");
    b.output("y", y);
    let id = b.finish();
    module.add_entry(id);
    module
}

/// Convolutions of 3x3 taps of so many channels that transformed tiles may pay, with what follows them.
fn convolution(c: &mut Choices<'_>) -> Module {
    let (h, w) = (c.between(3, 16), c.between(3, 16));
    let (channels, filters, pad) = (c.of(&[16, 24, 32]), c.of(&[16, 33, 48]), c.between(0, 1));
    let mut module = Module::new();
    let mut b = GraphBuilder::new(&mut module, "main");
    let x = b.input("x", Type::fixed(DType::F32, &[1, h, w, channels]));
    let weights: Vec<f32> = (0..filters * channels * 9).map(|i| (i * 7 % 23) as f32 / 16.0 - 0.7).collect();
    let weights =
        Tensor::from_slice(&[filters as usize, channels as usize, 3, 3], &weights).expect("a tensor");
    let weights = b.constant(weights).expect("a constant");
    let op = Conv::Forward {
        strides: vec![1, 1],
        dilations: vec![1, 1],
        pads: vec![(Dim::known(pad), Dim::known(pad)); 2],
        groups: 1,
        layout: Layout::ChannelsLast,
        out: DType::F32,
    };
    let mut y = b.add1(op, &[x, weights]).expect("operands of a convolution");
    for name in ["relu", "hard_swish", "sigmoid"].iter().take(c.below(3)) {
        y = b.ew(name, &[y]).expect("a unary operator");
    }
    b.output("y", y);
    let id = b.finish();
    module.add_entry(id);
    module
}

/// A case for each kernel that a run of the module's entry meets, up to the first step that is not one.
fn kernels_of(module: &Module, tuning: Tuning) -> Vec<Case> {
    let seen: Mutex<HashMap<String, Kernel>> = Mutex::new(HashMap::new());
    // Which kernels there are does not depend on their code: lowerings that refuse one are left out later.
    let lower = |kernel: &Kernel| {
        seen.lock().expect("nobody panics with it").insert(kernel.to_string(), kernel.clone());
        Ok(MachineCode {
            code: vec![0xc3],
            align: 1,
            features: vec![],
            scratch_bytes: 0,
            listing: String::new(),
        })
    };
    let lower: &LowerKernel<'_> = &lower;
    let Ok(compiled) = compile_with(module, "any", tuning, lower) else { return vec![] };
    let kernels = seen.into_inner().expect("nobody panics with it");
    let kernels: Vec<&Kernel> = compiled.kernel_texts.iter().filter_map(|text| kernels.get(text)).collect();
    let (image, graph) = (&compiled.image, module.graph(module.entries()[0]));
    let inputs = random_graph::inputs(graph, size, 7);
    let mut run = Run { image, function: function(image), memory: HashMap::new(), cases: vec![] };
    for (&slot, tensor) in run.function.inputs.iter().zip(&inputs) {
        run.memory.insert(slot, tensor.bytes().to_vec());
    }
    for step in &run.function.steps {
        let done = match &step.action {
            Action::Kernel(call) => run.kernel(&kernels, call),
            Action::Copy { from, to } => run.copy(*from, *to),
            Action::Check { left, relation, right, .. } => match (value(left), value(right)) {
                (Some(left), Some(right)) => relation.holds(left, right).then_some(()),
                _ => None,
            },
            _ => None,
        };
        if done.is_none() {
            break;
        }
    }
    run.cases
}

/// The function of the entry.
fn function(image: &Image) -> &Function {
    image.program.function(image.program.entries[0].function).expect("it compiled")
}

/// A run by the interpreter.
struct Run<'a> {
    image: &'a Image,
    function: &'a Function,
    /// Bytes of the slots at the ends of chains of views.
    memory: HashMap<SlotId, Vec<u8>>,
    cases: Vec<Case>,
}

impl Run<'_> {
    /// The slot that holds the bytes, and where in it `offset` bytes into `slot` are.
    fn place(&self, slot: SlotId, offset: &Dim) -> Option<(SlotId, usize)> {
        let (mut at, mut bytes) = (slot, value(offset)?);
        while let Storage::View { of, offset } = &self.function.slots.get(at.index())?.storage {
            bytes += value(offset)?;
            at = *of;
        }
        Some((root(self.function, slot)?, usize::try_from(bytes).ok()?))
    }

    /// The bytes of a slot without views, made if there are none.
    fn bytes(&mut self, slot: SlotId) -> Option<&mut Vec<u8>> {
        if !self.memory.contains_key(&slot) {
            let data = self.function.slots.get(slot.index())?;
            let bytes = match &data.storage {
                Storage::Constant(id) => self.image.constants.get(id.index())?.bytes().to_vec(),
                Storage::Arena | Storage::Output(_) => {
                    let size = kiln_runtime::plan::byte_size(data.ty.as_tensor()?);
                    vec![0; usize::try_from(value(&size)?).ok()?]
                }
                _ => return None,
            };
            self.memory.insert(slot, bytes);
        }
        self.memory.get_mut(&slot)
    }

    fn kernel(&mut self, kernels: &[&Kernel], call: &KernelCall) -> Option<()> {
        let kernel = *kernels.get(call.kernel.index())?;
        let dims: Vec<i64> = call.dims.iter().map(value).collect::<Option<_>>()?;
        let mut buffers = vec![];
        for argument in &call.buffers {
            let (slot, at) = self.place(argument.slot, &argument.offset)?;
            let len = usize::try_from(value(&argument.len)?).ok()?;
            buffers.push(self.bytes(slot)?.get(at..at + len)?.to_vec());
        }
        let case = Case {
            kernel: kernel.clone(),
            buffers: buffers.clone(),
            dims: dims.clone(),
            may_be_refused: true,
        };
        self.cases.push(case);
        let points = kernel.grid_points().eval_dims(&dims) as u64;
        let mut slices: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
        // A fault of the interpreter shows when the case is tried.
        kiln_codegen::interp::run(kernel, &mut slices, &dims, 0..points).ok()?;
        for (argument, bytes) in call.buffers.iter().zip(buffers) {
            if argument.access.writes() {
                let (slot, at) = self.place(argument.slot, &argument.offset)?;
                self.bytes(slot)?.get_mut(at..at + bytes.len())?.copy_from_slice(&bytes);
            }
        }
        Some(())
    }

    fn copy(&mut self, from: SlotId, to: SlotId) -> Option<()> {
        let zero = Dim::known(0);
        let ((from, at), (to, target)) = (self.place(from, &zero)?, self.place(to, &zero)?);
        let whole = self.bytes(to)?.len() - target;
        let bytes = self.bytes(from)?.get(at..at + whole)?.to_vec();
        self.bytes(to)?.get_mut(target..)?.copy_from_slice(&bytes);
        Some(())
    }
}

/// A size in bytes or elements.
fn value(dim: &Dim) -> Option<i64> {
    dim.eval(&|symbol| Some(size(&symbol.0))).ok()
}
