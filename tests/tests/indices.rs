//! Indices that show at run time never lead outside of a tensor: those in range pick what they name, others the first or
//! the last element; an axis without elements is an error where anything is asked of it.

use kiln::ir::op::{Index, Order};
use kiln::ir::{Build, DType, Datum, Dim, GraphBuilder, Module, Op, Tensor, Type};
use kiln::runtime::cpu::Tier;
use kiln::runtime::{Session, SessionOptions};
use kiln::{Options, compile};

/// Sessions on a graph of `op` over inputs of these types, one for each instruction set of this machine.
fn sessions(op: impl Into<Op>, inputs: &[(DType, &[&str])]) -> Vec<Session> {
    let mut module = Module::new();
    let mut b = GraphBuilder::new(&mut module, "main");
    let values: Vec<_> = (inputs.iter().enumerate())
        .map(|(i, (dtype, dims))| {
            let dims: Vec<Dim> = dims.iter().map(|d| d.parse().unwrap()).collect();
            b.input(&format!("x{i}"), Type::tensor(*dtype, dims))
        })
        .collect();
    let y = b.add1(op, &values).unwrap();
    b.output("y", y);
    let id = b.finish();
    module.add_entry(id);
    let tiers = [Tier::X86V2, Tier::X86V3, Tier::X86V4, Tier::Aarch64];
    let tiers = tiers.into_iter().filter(|tier| tier.is_supported());
    tiers
        .map(|tier| {
            let compiled =
                compile(module.clone(), &Options { tier: Some(tier), ..Options::default() }).unwrap();
            assert!(compiled.summary.slow.is_empty(), "{:?}", compiled.summary.slow);
            compiled.into_session(SessionOptions { threads: Some(1), ..Default::default() }).unwrap()
        })
        .collect()
}

fn run(session: &Session, inputs: &[Tensor]) -> Result<Vec<f64>, String> {
    let inputs: Vec<Datum> = inputs.iter().cloned().map(Datum::Tensor).collect();
    let outputs = session.run("main", &inputs).map_err(|e| e.to_string())?;
    outputs[0].as_tensor().and_then(Tensor::to_f64s).ok_or_else(|| "no numbers".to_owned())
}

fn numbers(dims: &[usize]) -> Tensor {
    let values: Vec<f32> = (0..dims.iter().product::<usize>()).map(|i| i as f32 + 1.0).collect();
    Tensor::from_slice(dims, &values).unwrap()
}

const WILD: [i64; 8] = [i64::MIN, i64::MIN + 3, -1 << 40, -4, 3, 1 << 31, 1 << 40, i64::MAX];

#[test]
fn gathers_stay_inside() {
    for extent in ["3", "N"] {
        for session in
            sessions(Index::Gather { axis: 0 }, &[(DType::F32, &[extent, "2"]), (DType::I64, &["M"])])
        {
            let rows = run(&session, &[numbers(&[3, 2]), Tensor::ints(&[2, -3, -1])]).unwrap();
            assert_eq!(rows, [5.0, 6.0, 1.0, 2.0, 5.0, 6.0]);
            let rows = run(&session, &[numbers(&[3, 2]), Tensor::ints(&WILD)]).unwrap();
            let (first, last) = ([1.0, 2.0], [5.0, 6.0]);
            assert_eq!(rows, [first, first, first, first, last, last, last, last].concat());
        }
        let kinds: [(DType, &[&str]); 2] = [(DType::F32, &[extent, "2"]), (DType::I64, &["4", "2"])];
        for session in sessions(Index::GatherElements { axis: 0 }, &kinds) {
            let indices = Tensor::from_slice(&[4, 2], &WILD).unwrap();
            let elements = run(&session, &[numbers(&[3, 2]), indices]).unwrap();
            assert_eq!(elements, [1.0, 2.0, 1.0, 2.0, 5.0, 6.0, 5.0, 6.0]);
        }
        let kinds: [(DType, &[&str]); 2] = [(DType::F32, &[extent, "2"]), (DType::I64, &["4", "2"])];
        for session in sessions(Index::GatherNd { batch: 0 }, &kinds) {
            let indices = Tensor::from_slice(&[4, 2], &WILD).unwrap();
            let elements = run(&session, &[numbers(&[3, 2]), indices]).unwrap();
            assert_eq!(elements, [1.0, 1.0, 6.0, 6.0]);
        }
    }
}

#[test]
fn an_axis_without_elements_is_not_read() {
    for session in sessions(Index::Gather { axis: 0 }, &[(DType::F32, &["N", "2"]), (DType::I64, &["M"])]) {
        let error = run(&session, &[numbers(&[0, 2]), Tensor::ints(&[0])]).unwrap_err();
        assert!(error.contains("does not hold"), "{error}");
    }
    for last in [false, true] {
        for op in [
            Order::ArgMax { axis: 0, keepdims: false, last },
            Order::ArgMin { axis: 0, keepdims: true, last },
        ] {
            for session in sessions(op.clone(), &[(DType::F32, &["N", "M"])]) {
                assert_eq!(run(&session, &[numbers(&[1, 2])]).unwrap(), [0.0, 0.0]);
                let error = run(&session, &[numbers(&[0, 2])]).unwrap_err();
                assert!(error.contains("does not hold"), "{error}");
            }
        }
    }
}
