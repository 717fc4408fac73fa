//! Graphs, compiled as models are, with tensors to run on.

use std::sync::Arc;

use kiln::ir::{Build, DType, GraphBuilder, InferError, Module, Tensor, Type, Value};
use kiln::runtime::memory::AlignedBuf;
use kiln::runtime::profile::Profile;
use kiln::runtime::{Datum, RunOptions, Session, SessionOptions, TensorMut, TensorRef};

use crate::Result;
use crate::kernel::number;
use crate::machine::Machine;

/// Adds nodes to a graph: takes its inputs, gives its outputs.
pub type Body<'a> =
    &'a dyn Fn(&mut GraphBuilder<'_>, &[Value]) -> std::result::Result<Vec<Value>, InferError>;

/// A graph that is ready to run, with places for its outputs.
pub struct Graph {
    session: Session,
    entry: String,
    inputs: Vec<Tensor>,
    outputs: Vec<(DType, Vec<usize>, AlignedBuf)>,
}

impl Graph {
    /// Compiles a graph of `f32` inputs of these dims, whose outputs are `f32` of fixed dims, for so many threads.
    pub fn new(machine: Machine, threads: usize, inputs: &[&[usize]], body: Body<'_>) -> Result<Graph> {
        let options = kiln::Options { tier: Some(machine.tier), ..kiln::Options::default() };
        Graph::compiled(&options, threads, inputs, body)
    }

    /// The same with further options.
    pub fn compiled(
        options: &kiln::Options,
        threads: usize,
        inputs: &[&[usize]],
        body: Body<'_>,
    ) -> Result<Graph> {
        let inputs: Vec<(DType, &[usize])> = inputs.iter().map(|dims| (DType::F32, *dims)).collect();
        Graph::typed(options, threads, &inputs, body)
    }

    /// The same with inputs of `f32` or `u8` and outputs of any dtype.
    pub fn typed(
        options: &kiln::Options,
        threads: usize,
        inputs: &[(DType, &[usize])],
        body: Body<'_>,
    ) -> Result<Graph> {
        let mut module = Module::new();
        let mut b = GraphBuilder::new(&mut module, "main");
        let ty = |(dtype, dims): &(DType, &[usize])| {
            Type::fixed(*dtype, &dims.iter().map(|&d| d as i64).collect::<Vec<_>>())
        };
        let values: Vec<Value> =
            inputs.iter().enumerate().map(|(i, input)| b.input(&format!("x{i}"), ty(input))).collect();
        let mut outputs = vec![];
        for (i, v) in body(&mut b, &values)?.into_iter().enumerate() {
            b.output(&format!("y{i}"), v);
            let dims: Option<Vec<usize>> =
                b.shape(v)?.iter().map(|d| d.as_known().and_then(|d| usize::try_from(d).ok())).collect();
            let dims = dims.ok_or("an output without fixed dims")?;
            let dtype = b.dtype(v)?;
            let bytes = dtype.bytes_for(dims.iter().product()).ok_or("an output without a size")?;
            outputs.push((dtype, dims, AlignedBuf::zeroed(bytes as u64)?));
        }
        let id = b.finish();
        module.add_entry(id);
        let compiled = kiln::compile(module, options)?;
        if let Some(slow) = compiled.summary.slow.first() {
            return Err(format!("{} ({}) has no kernel: {}", slow.node, slow.op, slow.reason).into());
        }
        let session =
            compiled.into_session(SessionOptions { threads: Some(threads), ..SessionOptions::default() })?;
        let entry = session.entries().first().ok_or("the graph has no entry")?.name.clone();
        Ok(Graph {
            session,
            entry,
            inputs: inputs.iter().map(|(dtype, dims)| tensor_of(*dtype, dims)).collect::<Result<_>>()?,
            outputs,
        })
    }

    /// The kernels and chunks of a run.
    pub fn pieces(&self) -> Result<Pieces> {
        let profile = Arc::new(Profile::new());
        let options = RunOptions { profile: Some(profile.clone()), ..RunOptions::default() };
        let inputs: Vec<Datum> = self.inputs.iter().cloned().map(Datum::Tensor).collect();
        self.session.run_with(&self.entry, &inputs, &options)?;
        let work = profile.take().1;
        Ok(Pieces { kernels: work.len() as u32, chunks: work.iter().map(|work| work.chunks).sum() })
    }

    /// One run.
    pub fn run(&mut self) -> Result<()> {
        let inputs: Vec<TensorRef<'_>> = self.inputs.iter().map(TensorRef::from).collect();
        let outputs: Option<Vec<TensorMut<'_>>> = self
            .outputs
            .iter_mut()
            .map(|(dtype, dims, memory)| TensorMut::new(*dtype, dims, memory.bytes_mut()))
            .collect();
        let mut outputs = outputs.ok_or("an output's memory has another size than its dims")?;
        Ok(self.session.run_into(&self.entry, &inputs, &mut outputs, &RunOptions::default())?)
    }
}

/// What a run hands to threads.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pieces {
    /// Steps that are kernels.
    pub kernels: u32,
    /// Chunks of their grids, which threads take one at a time.
    pub chunks: u32,
}

/// A tensor of numbers in [-1, 1], or of bytes.
fn tensor_of(dtype: DType, dims: &[usize]) -> Result<Tensor> {
    let byte = |i: usize| ((i * 37 + i / 7) % 256) as u8;
    match dtype {
        DType::U8 => {
            let bytes: Vec<u8> = (0..dims.iter().product()).map(byte).collect();
            Ok(Tensor::from_slice(dims, &bytes)?)
        }
        _ => tensor(dims),
    }
}

/// A tensor of numbers in [-1, 1].
pub fn tensor(dims: &[usize]) -> Result<Tensor> {
    let numbers: Vec<f32> = (0..dims.iter().product()).map(number).collect();
    Ok(Tensor::from_slice(dims, &numbers)?)
}
