//! Cases of ATen operators with PyTorch's answers, as `xtask/py/aten/cases.py` writes them: each becomes a
//! `torch.export` archive of one node, goes through the loader, and is evaluated or compiled.

use std::io::{Cursor, Write};
use std::path::Path;

use kiln_ir::{DType, Datum, Evaluator, Module, Scalar, Tensor};
use serde::Deserialize;
use serde_json::{Value as Json, json};

/// A tensor in `arrays.bin`: number of its element type in the schema of `torch.export`, shape, first byte.
#[derive(Clone, Debug, Deserialize)]
struct Stored(i64, Vec<usize>, usize);

/// One result.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Expected {
    /// A tensor.
    One(Stored),
    /// A list of tensors.
    List(Vec<Stored>),
}

/// A call and what PyTorch gives.
#[derive(Clone, Debug, Deserialize)]
pub struct Case {
    /// The operator with its overload, as `torch.export` names it.
    pub op: String,
    args: Vec<(String, Json)>,
    inputs: Vec<Stored>,
    outputs: Vec<Expected>,
    tolerance: f64,
}

/// Cases and the bytes of their tensors.
pub struct Cases {
    /// In the order of the file.
    pub cases: Vec<Case>,
    bytes: Vec<u8>,
}

/// How a loaded case is run.
pub type Runner<'r> = &'r dyn Fn(Module, &[Datum]) -> Result<Vec<Datum>, String>;

/// Runs a module's first entry with the reference evaluator.
pub fn evaluated(module: Module, inputs: &[Datum]) -> Result<Vec<Datum>, String> {
    let entry = *module.entries().first().ok_or("no entry")?;
    Evaluator::new(&module).run(entry, inputs).map_err(|e| e.to_string())
}

fn element_type(code: i64) -> Result<DType, String> {
    Ok(match code {
        1 => DType::U8,
        2 => DType::I8,
        3 => DType::I16,
        4 => DType::I32,
        5 => DType::I64,
        6 => DType::F16,
        7 => DType::F32,
        8 => DType::F64,
        12 => DType::Bool,
        13 => DType::BF16,
        other => return Err(format!("element type {other}")),
    })
}

impl Cases {
    /// Reads the files of a folder.
    pub fn read(folder: &Path) -> Result<Cases, String> {
        let text = std::fs::read_to_string(folder.join("cases.jsonl")).map_err(|e| e.to_string())?;
        let bytes = std::fs::read(folder.join("arrays.bin")).map_err(|e| e.to_string())?;
        let cases = text.lines().map(serde_json::from_str).collect::<Result<Vec<Case>, _>>();
        Ok(Cases { cases: cases.map_err(|e| e.to_string())?, bytes })
    }

    fn tensor(&self, Stored(code, shape, at): &Stored) -> Result<Tensor, String> {
        let dtype = element_type(*code)?;
        let length = dtype.bytes_for(shape.iter().product()).ok_or("size")?;
        let bytes = self.bytes.get(*at..at + length).ok_or("bytes are missing")?;
        Tensor::new(dtype, shape, kiln_ir::Bytes::copied(bytes)).map_err(|e| e.to_string())
    }

    /// Runs a case and compares all results. The error says what is wrong.
    pub fn run(&self, case: &Case, runner: Runner<'_>) -> Result<(), String> {
        let archive = case.archive()?;
        let module = kiln_loaders::load_bytes("case.pt2", archive.into(), &Default::default());
        let module = module.map_err(|e| e.to_string())?;
        let inputs = case.inputs.iter().map(|stored| self.tensor(stored).map(Datum::Tensor));
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        let found = runner(module, &inputs)?;
        let wanted = case.outputs.iter().flat_map(|expected| match expected {
            Expected::One(stored) => std::slice::from_ref(stored),
            Expected::List(list) => list,
        });
        let wanted: Vec<&Stored> = wanted.collect();
        if wanted.len() != found.len() {
            return Err(format!("{} results, expected {}", found.len(), wanted.len()));
        }
        for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
            let Datum::Tensor(found) = found else { return Err(format!("result {i} is no tensor")) };
            let wanted = self.tensor(wanted)?;
            agree(found, &wanted, case.tolerance).map_err(|why| format!("result {i}: {why}"))?;
        }
        Ok(())
    }
}

impl Case {
    /// The arguments, for messages.
    pub fn arguments(&self) -> String {
        let shapes: Vec<&Vec<usize>> = self.inputs.iter().map(|Stored(_, shape, _)| shape).collect();
        let args: Vec<String> = self.args.iter().map(|(name, arg)| format!("{name}={arg}")).collect();
        format!("{} of {shapes:?}", args.join(", "))
    }

    /// The case as an archive.
    fn archive(&self) -> Result<Vec<u8>, String> {
        let sizes = |shape: &[usize]| -> Vec<Json> { shape.iter().map(|n| json!({"as_int": n})).collect() };
        let mut values = serde_json::Map::new();
        let (mut graph_inputs, mut input_specs) = (vec![], vec![]);
        for (i, Stored(code, shape, _)) in self.inputs.iter().enumerate() {
            let name = format!("i{i}");
            let meta = json!({
                "dtype": code, "sizes": sizes(shape), "strides": sizes(&dense(shape)), "layout": 7,
                "storage_offset": {"as_int": 0},
            });
            values.insert(name.clone(), meta);
            let arg = json!({"as_tensor": {"name": name}});
            graph_inputs.push(arg.clone());
            input_specs.push(json!({"user_input": {"arg": arg}}));
        }
        let (mut node_outputs, mut graph_outputs, mut output_specs) = (vec![], vec![], vec![]);
        for (i, expected) in self.outputs.iter().enumerate() {
            let count = match expected {
                Expected::One(_) => 1,
                Expected::List(list) => list.len(),
            };
            let names: Vec<Json> = (0..count).map(|j| json!({"name": format!("o{i}_{j}")})).collect();
            for name in &names {
                let arg = json!({"as_tensor": name});
                graph_outputs.push(arg.clone());
                output_specs.push(json!({"user_output": {"arg": arg}}));
            }
            node_outputs.push(match (expected, names.as_slice()) {
                (Expected::One(_), [name]) => json!({"as_tensor": name}),
                _ => json!({"as_tensors": names}),
            });
        }
        let args: Vec<Json> =
            self.args.iter().map(|(name, arg)| json!({"name": name, "arg": arg, "kind": 1})).collect();
        let program = json!({
            "graph_module": {
                "graph": {
                    "inputs": graph_inputs, "outputs": graph_outputs, "tensor_values": values,
                    "nodes": [{"target": self.op, "inputs": args, "outputs": node_outputs, "name": "call"}],
                },
                "signature": {"input_specs": input_specs, "output_specs": output_specs},
            },
            "schema_version": {"major": 8, "minor": 20},
        });
        archive(&program.to_string())
    }
}

/// Strides of elements that lie one after the other.
fn dense(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i].max(1);
    }
    strides
}

/// A zip archive with a program and no weights.
fn archive(program: &str) -> Result<Vec<u8>, String> {
    let mut zip = zip::ZipWriter::new(Cursor::new(vec![]));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, text) in [("case/models/model.json", program), ("case/archive_format", "pt2")] {
        zip.start_file(name, stored).map_err(|e| e.to_string())?;
        zip.write_all(text.as_bytes()).map_err(|e| e.to_string())?;
    }
    Ok(zip.finish().map_err(|e| e.to_string())?.into_inner())
}

/// Whether two tensors agree: type, shape, and numbers within a difference relative to the largest magnitude.
fn agree(found: &Tensor, wanted: &Tensor, tolerance: f64) -> Result<(), String> {
    if found.dtype() != wanted.dtype() || found.dims() != wanted.dims() {
        return Err(format!("{}, expected {}", found.ty(), wanted.ty()));
    }
    let number = |s: Scalar| match s {
        Scalar::F(v) => v,
        Scalar::I(v) => v as f64,
        Scalar::B(b) => f64::from(u8::from(b)),
    };
    let numbers = |t: &Tensor| t.to_scalars().map(|all| all.into_iter().map(number).collect::<Vec<f64>>());
    let (Some(found), Some(wanted)) = (numbers(found), numbers(wanted)) else {
        return Err("elements that are no numbers".to_owned());
    };
    let largest = wanted.iter().filter(|v| v.is_finite()).fold(1.0f64, |a, v| a.max(v.abs()));
    for (i, (f, w)) in found.iter().zip(&wanted).enumerate() {
        let same = f == w || (f.is_nan() && w.is_nan());
        if !same && (f - w).abs().partial_cmp(&(tolerance * largest)) != Some(std::cmp::Ordering::Less) {
            return Err(format!("element {i} is {f}, expected {w}"));
        }
    }
    Ok(())
}
