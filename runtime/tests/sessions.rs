//! Sessions on small programs with hand-assembled kernels.
#![cfg(target_arch = "x86_64")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln_ir::{Build, DType, Dim, GraphBuilder, Module, Tensor, Type, op, text};
use kiln_runtime::program::*;
use kiln_runtime::*;
use support::*;

#[test]
fn threads_and_chunks_do_not_change_results() {
    let input: Vec<u32> = (0..5000).collect();
    for threads in [1, 2, 4, 8] {
        for grain in [1, 7, 512, 100_000] {
            let session = session(image(program(vec![chain("5000", "5000", 9, grain)])), threads);
            let out = session.run("main", &[tensor(&[5000], &input)]).unwrap();
            assert_eq!(values(&out[0]), chain_result(&input, 9), "{threads} threads, grain {grain}");
        }
    }
}

#[test]
fn symbolic_shapes_bind_at_each_run() {
    let session = session(image(program(vec![chain("N,3", "3*N", 5, 16)])), 2);
    // More shapes than frames are kept, twice.
    for n in (1..8).chain(1..8).chain([1000, 0]) {
        let input: Vec<u32> = (0..3 * n as u32).collect();
        let out = session.run("main", &[tensor(&[n, 3], &input)]).unwrap();
        assert_eq!(out[0].as_tensor().unwrap().dims(), [n, 3]);
        assert_eq!(values(&out[0]), chain_result(&input, 5));
    }
}

#[test]
fn wrong_inputs_are_named() {
    let session = session(image(program(vec![chain("N,3", "3*N", 2, 16)])), 1);
    let message = |result: Result<Vec<Datum>, RunError>| result.unwrap_err().to_string();
    assert_eq!(
        message(session.run("main", &[tensor(&[2, 4], &[0; 8])])),
        "entry `main`: input `in0`: shape [N, 3] expected, [2, 4] given: axis 1: 3 expected, 4 given"
    );
    assert_eq!(
        message(session.run("main", &[Tensor::zeros(DType::F32, &[2, 3]).unwrap().into()])),
        "entry `main`: input `in0`: u32 expected, f32 given"
    );
    assert_eq!(message(session.run("main", &[])), "entry `main` takes 1 inputs, 0 are given");
    assert_eq!(message(session.run("other", &[])), "no entry `other`; there are: main");
    let named = |inputs: &[(&str, Datum)]| {
        session.run_named("main", inputs, &RunOptions::default()).unwrap_err().to_string()
    };
    let ok = || tensor(&[1, 3], &[1, 2, 3]);
    assert_eq!(named(&[("x", ok())]), "entry `main` has no input `x`; its inputs are: in0");
    assert_eq!(named(&[]), "entry `main`: input `in0` is missing");
    assert_eq!(named(&[("in0", ok()), ("in0", ok())]), "entry `main`: input `in0` is given twice");
    let good = session.run_named("main", &[("in0", ok())], &RunOptions::default()).unwrap();
    assert_eq!((good[0].0.as_str(), values(&good[0].1)), ("out0", vec![4, 5, 6]));
}

#[test]
fn run_into_checks_its_buffers_and_takes_unaligned_ones() {
    let session = session(image(program(vec![chain("4", "4", 3, 1)])), 1);
    let input: Vec<u8> = (0..17).collect();
    let mut output = [0u8; 17];
    // One of the two starts is odd.
    for at in [0, 1] {
        let source = TensorRef::new(DType::U32, &[4], &input[at..at + 16]).unwrap();
        let target = TensorMut::new(DType::U32, &[4], &mut output[at..at + 16]).unwrap();
        session.run_into("main", &[source], &mut [target], &RunOptions::default()).unwrap();
        let first = u32::from_le_bytes(output[at..at + 4].try_into().unwrap());
        assert_eq!(first, u32::from_le_bytes(input[at..at + 4].try_into().unwrap()) + 6);
    }
    assert!(TensorRef::new(DType::U32, &[4], &input).is_none());
    let source = TensorRef::new(DType::U32, &[4], &input[..16]).unwrap();
    let mut wrong = [0u8; 16];
    let target = TensorMut::new(DType::U32, &[2, 2], &mut wrong).unwrap();
    let error = session.run_into("main", &[source], &mut [target], &RunOptions::default()).unwrap_err();
    assert!(error.to_string().contains("output `out0`: shape [4] expected, [2, 2] given"), "{error}");
    let mut short = [0u8; 12];
    let target = TensorMut::new(DType::U32, &[3], &mut short).unwrap();
    assert!(session.run_into("main", &[source], &mut [target], &RunOptions::default()).is_err());
}

#[test]
fn runs_end_early_when_told_to() {
    let session = session(image(program(vec![chain("64", "64", 50, 8)])), 2);
    let input = [tensor(&[64], &[1; 64])];
    let cancel = CancelToken::new();
    let options = RunOptions { cancel: Some(cancel.clone()), ..RunOptions::default() };
    assert!(session.run_with("main", &input, &options).is_ok());
    cancel.cancel();
    assert!(matches!(session.run_with("main", &input, &options), Err(RunError::Cancelled)));
    let late = RunOptions { deadline: Some(Instant::now()), ..RunOptions::default() };
    assert!(matches!(session.run_with("main", &input, &late), Err(RunError::DeadlineExceeded)));
    // The session is as good as before.
    assert_eq!(values(&session.run("main", &input).unwrap()[0]), chain_result(&[1; 64], 50));
}

#[test]
fn a_running_loop_sees_the_deadline() {
    let session = session(image(program(vec![endless_loop(), counting_body()])), 2);
    let deadline = Instant::now() + Duration::from_millis(50);
    let options = RunOptions { deadline: Some(deadline), ..RunOptions::default() };
    let result = session.run_with("main", &[tensor(&[], &[0])], &options);
    assert!(matches!(result, Err(RunError::DeadlineExceeded)));
    assert!(Instant::now() < deadline + Duration::from_secs(5));
}

#[test]
fn memory_is_capped_and_known() {
    let build = |cap| {
        let options = SessionOptions { max_memory: cap, threads: Some(1), ..SessionOptions::default() };
        session_with(image(program(vec![chain("N", "N", 4, 64)])), options)
    };
    let free = build(None);
    free.run("main", &[tensor(&[1000], &[0; 1000])]).unwrap();
    // Two buffers in the arena, the output, and little more.
    let peak = free.peak_memory();
    assert!((3 * 4000..3 * 4000 + 1024).contains(&peak), "{peak}");
    let plan = free.memory("main", &[&[1000]]).unwrap();
    assert!(plan.exact && plan.outputs == 4000 && plan.arena < 2 * 4200, "{plan:?}");
    assert!(plan.arena + plan.outputs + plan.scratch <= peak);
    assert!(free.memory("main", &[&[1000, 1]]).unwrap_err().to_string().contains("input `in0`"));
    let capped = build(Some(peak));
    capped.run("main", &[tensor(&[1000], &[0; 1000])]).unwrap();
    let error = capped.run("main", &[tensor(&[2000], &[0; 2000])]).unwrap_err();
    assert!(
        matches!(&error, RunError::Memory { source: memory::MemoryError::OverCap { .. }, .. }),
        "{error}"
    );
    // Frames of other shapes make room.
    for n in [900, 950, 1000, 800] {
        capped.run("main", &[tensor(&[n], &vec![0; n])]).unwrap();
    }
}

#[test]
fn sizes_that_cannot_be_are_errors() {
    let session = session(image(program(vec![chain("N,M", "N*M", 3, 64)])), 1);
    let dims = [1 << 40, 0];
    assert!(session.run("main", &[Tensor::zeros(DType::U32, &dims).unwrap().into()]).is_ok());
    let mut function = chain("N", "N", 3, 64);
    function.slots[1].ty = u32s("N*N*N*40000000000000");
    // The cap allows one such arena, the machine none.
    let options = SessionOptions { threads: Some(1), max_memory: Some(1 << 51), ..SessionOptions::default() };
    let session = session_with(image(program(vec![function])), options);
    for _ in 0..40 {
        let error = session.run("main", &[tensor(&[2], &[0; 2])]).unwrap_err();
        assert!(
            matches!(&error, RunError::Memory { source: memory::MemoryError::Refused(_), .. }),
            "{error}"
        );
    }
}

#[test]
fn many_callers_share_a_session() {
    let session = Arc::new(session(image(program(vec![chain("N", "N", 20, 32)])), 3));
    std::thread::scope(|scope| {
        for caller in 0..6u32 {
            let session = Arc::clone(&session);
            scope.spawn(move || {
                for round in 0..40 {
                    let n = (100 + caller * 10 + round % 3) as usize;
                    let input: Vec<u32> = (0..n as u32).map(|v| v * caller).collect();
                    let out = session.run("main", &[tensor(&[n], &input)]).unwrap();
                    assert_eq!(values(&out[0]), chain_result(&input, 20));
                }
            });
        }
    });
}

#[test]
fn views_and_copies_share_or_move_bytes() {
    // in0: [6]; view of its second half; copied to the arena, added to in place, reshaped into the output.
    let view = |of, offset: &str| Storage::View { of: SlotId(of), offset: dim(offset) };
    let function = Function {
        name: "views".to_owned(),
        slots: vec![
            slot(u32s("2*N"), Storage::Input(0)),
            slot(u32s("N"), view(0, "4*N")),
            slot(u32s("N"), Storage::Arena),
            slot(u32s("N"), view(2, "0")),
            slot(u32s("1,N"), Storage::Output(0)),
            slot(u32s("N"), view(4, "0")),
        ],
        steps: vec![
            step(Action::Copy { from: SlotId(1), to: SlotId(2) }),
            add(2, 3, "10", "N", 2),
            add(3, 5, "N", "N", 2),
        ],
        inputs: vec![SlotId(0)],
        outputs: vec![SlotId(4), SlotId(0), SlotId(1)],
        arena: None,
    };
    let session = session(image(program(vec![function])), 2);
    let out = session.run("main", &[tensor(&[6], &[1, 2, 3, 4, 5, 6])]).unwrap();
    assert_eq!((out[0].as_tensor().unwrap().dims(), values(&out[0])), (&[1, 3][..], vec![17, 18, 19]));
    assert_eq!(values(&out[1]), [1, 2, 3, 4, 5, 6]);
    assert_eq!(values(&out[2]), [4, 5, 6]);
}

#[test]
fn checks_fail_with_their_reason() {
    let mut function = chain("N", "N", 2, 8);
    let what = "operands of concat".to_owned();
    function.steps.insert(
        0,
        Step {
            action: Action::Check { left: dim("N"), relation: Relation::Equal, right: dim("4"), what },
            provenance: vec!["concat_7".to_owned()],
        },
    );
    let session = session(image(program(vec![function])), 1);
    assert!(session.run("main", &[tensor(&[4], &[0; 4])]).is_ok());
    let error = session.run("main", &[tensor(&[5], &[0; 5])]).unwrap_err();
    assert_eq!(error.to_string(), "node `concat_7`: operands of concat: 5 = 4 does not hold");
}

#[test]
fn accesses_beyond_a_slot_are_refused_when_bound() {
    for (offset, len) in [("4", "4*N"), ("0", "4*N+1"), ("0-4", "4"), ("9223372036854775807", "4*N")] {
        let mut function = chain("N", "N", 2, 8);
        let Action::Kernel(call) = &mut function.steps[0].action else { unreachable!() };
        call.buffers[0].offset = dim(offset);
        call.buffers[0].len = dim(len);
        let session = session(image(program(vec![function])), 1);
        let error = session.run("main", &[tensor(&[4], &[0; 4])]).unwrap_err();
        assert!(matches!(error, RunError::Plan { .. } | RunError::Dim { .. }), "{error}");
    }
}

fn bool_slot(storage: Storage) -> Slot {
    slot(Type::tensor(DType::Bool, Vec::<Dim>::new()), storage)
}

fn i64_slot(storage: Storage) -> Slot {
    slot(Type::tensor(DType::I64, Vec::<Dim>::new()), storage)
}

#[test]
fn branches_are_taken_by_the_condition() {
    let main = Function {
        name: "main".to_owned(),
        slots: vec![
            bool_slot(Storage::Input(0)),
            slot(u32s("N"), Storage::Input(1)),
            slot(u32s("N"), Storage::Arena),
            slot(u32s("N"), Storage::Output(0)),
        ],
        steps: vec![
            step(Action::If {
                condition: SlotId(0),
                then_branch: FunctionId(1),
                else_branch: FunctionId(2),
                operands: vec![SlotId(1)],
                results: vec![SlotId(2)],
            }),
            add(2, 3, "100", "N", 4),
        ],
        inputs: vec![SlotId(0), SlotId(1)],
        outputs: vec![SlotId(3)],
        arena: None,
    };
    // The branch names its extent otherwise than the caller does.
    let session = session(image(program(vec![main, chain("K", "K", 2, 4), chain("K", "K", 3, 4)])), 2);
    for (condition, expected) in [(true, 103), (false, 106)] {
        let condition = Tensor::from_bools(&[], &[condition]).unwrap().into();
        let out = session.run("main", &[condition, tensor(&[5], &[0; 5])]).unwrap();
        assert_eq!(values(&out[0]), [expected; 5]);
    }
}

/// Body of a loop: carried u32 scalar grows by 3, and is scanned.
fn counting_body() -> Function {
    Function {
        name: "body".to_owned(),
        slots: vec![
            i64_slot(Storage::Input(0)),
            bool_slot(Storage::Input(1)),
            slot(u32s(""), Storage::Input(2)),
            slot(u32s(""), Storage::Output(1)),
        ],
        steps: vec![add(2, 3, "3", "1", 1)],
        inputs: vec![SlotId(0), SlotId(1), SlotId(2)],
        outputs: vec![SlotId(1), SlotId(3), SlotId(3)],
        arena: None,
    }
}

fn endless_loop() -> Function {
    Function {
        name: "main".to_owned(),
        slots: vec![
            slot(u32s(""), Storage::Input(0)),
            slot(u32s(""), Storage::Arena),
            slot(u32s("T"), Storage::Object),
        ],
        steps: vec![step(Action::Loop {
            body: FunctionId(1),
            trip_count: None,
            condition: None,
            carried: vec![SlotId(0)],
            captured: vec![],
            results: vec![SlotId(1), SlotId(2)],
        })],
        inputs: vec![SlotId(0)],
        outputs: vec![SlotId(1)],
        arena: None,
    }
}

#[test]
fn loops_carry_and_scan_and_bind_the_number_of_trips() {
    let mut main = endless_loop();
    main.slots.push(i64_slot(Storage::Input(1)));
    main.slots.push(slot(u32s("T"), Storage::Output(1)));
    main.inputs.push(SlotId(3));
    // T is bound by the loop; the kernel after it is bound late.
    main.steps.push(add(2, 4, "T", "T", 2));
    main.outputs = vec![SlotId(1), SlotId(4)];
    let Action::Loop { trip_count, .. } = &mut main.steps[0].action else { unreachable!() };
    *trip_count = Some(SlotId(3));
    let session = session(image(program(vec![main, counting_body()])), 2);
    for trips in [5i64, 2, 0, 5] {
        let out = session.run("main", &[tensor(&[], &[7]), Tensor::scalar(trips).into()]).unwrap();
        assert_eq!(values(&out[0]), [7 + 3 * trips as u32]);
        let expected: Vec<u32> = (1..=trips as u32).map(|i| 7 + 3 * i + trips as u32).collect();
        assert_eq!(values(&out[1]), expected, "{trips} trips");
    }
}

/// Text of a module with the graphs that the host steps of the tests name.
fn host_module() -> String {
    let mut module = Module::new();
    let mut b = GraphBuilder::new(&mut module, "keep");
    let x = b.input("x", u32s("N"));
    let mask = b.input("mask", Type::tensor(DType::Bool, vec![dim("N")]));
    let kept = b.add(op::Dynamic::Compress { axis: Some(0) }.into(), &[x, mask]).unwrap();
    b.output("kept", kept[0]);
    b.finish();
    let mut b = GraphBuilder::new(&mut module, "pair");
    let (x, y) = (b.input("x", u32s("N")), b.input("y", u32s("M")));
    let pair = b.add(op::Object::SequenceConstruct {}.into(), &[x, y]).unwrap();
    b.output("pair", pair[0]);
    b.finish();
    text::print_module(&module).0
}

#[test]
fn host_steps_bind_the_shapes_of_their_results() {
    let host = |graph: &str, operands: &[u32], results: &[u32]| Step {
        action: Action::Host {
            graph: graph.to_owned(),
            operands: operands.iter().map(|&s| SlotId(s)).collect(),
            results: results.iter().map(|&s| SlotId(s)).collect(),
        },
        provenance: vec![format!("{graph}_1")],
    };
    let sequence = Type::Sequence(Box::new(Type::unranked(DType::U32)));
    let main = Function {
        name: "main".to_owned(),
        slots: vec![
            slot(u32s("N"), Storage::Input(0)),
            slot(Type::tensor(DType::Bool, vec![dim("N")]), Storage::Input(1)),
            slot(u32s("K"), Storage::Object),
            slot(u32s("K"), Storage::Arena),
            slot(u32s("K"), Storage::Output(0)),
            slot(sequence, Storage::Object),
        ],
        steps: vec![
            host("keep", &[0, 1], &[2]),
            add(2, 3, "K", "K", 4),
            add(3, 4, "100", "K", 4),
            host("pair", &[0, 3], &[5]),
        ],
        inputs: vec![SlotId(0), SlotId(1)],
        outputs: vec![SlotId(4), SlotId(5)],
        arena: None,
    };
    let mut program = program(vec![main]);
    program.host_module = host_module();
    let session = session(image(program.clone()), 2);
    assert!(!session.memory("main", &[&[6], &[6]]).unwrap().exact);
    let input = tensor(&[6], &[1, 2, 3, 4, 5, 6]);
    for mask in [[true; 6], [false; 6], [false, true, false, false, true, true]] {
        let kept: Vec<u32> = (1..=6u32).filter(|&v| mask[v as usize - 1]).collect();
        let k = kept.len() as u32;
        let inputs = [input.clone(), Tensor::from_bools(&[6], &mask).unwrap().into()];
        let out = session.run("main", &inputs).unwrap();
        assert_eq!(values(&out[0]), kept.iter().map(|v| v + k + 100).collect::<Vec<_>>());
        let Datum::Sequence { items, .. } = &out[1] else { panic!("{:?}", out[1]) };
        assert_eq!(values(&items[0]), [1, 2, 3, 4, 5, 6]);
        assert_eq!(values(&items[1]), kept.iter().map(|v| v + k).collect::<Vec<_>>());
    }

    // A result that is not what the program says.
    program.functions[0].slots[2].ty = u32s("K,1");
    let session = support::session(image(program.clone()), 1);
    let mask = Tensor::from_bools(&[6], &[true; 6]).unwrap();
    let error = session.run("main", &[input.clone(), mask.into()]).unwrap_err();
    assert!(
        error.to_string().starts_with("node `keep_1`, result s2: shape [K, 1] expected, [6] given"),
        "{error}"
    );

    // A host module that does not parse.
    program.host_module.push_str("}}");
    let error = Executable::from_image(image(program)).unwrap_err();
    assert!(error.to_string().contains("host module: line"), "{error}");
}

#[test]
fn endless_recursion_is_an_error() {
    let mut function = chain("N", "N", 2, 8);
    function.steps.push(step(Action::Call {
        function: FunctionId(0),
        operands: vec![SlotId(0)],
        results: vec![SlotId(1)],
    }));
    let session = session(image(program(vec![function])), 1);
    let error = session.run("main", &[tensor(&[4], &[0; 4])]).unwrap_err();
    assert!(matches!(error, RunError::Depth { .. }), "{error}");
}

#[test]
fn states_survive_runs() {
    // out0 = state; state = state + 2, from the constant 40 on.
    let main = Function {
        name: "main".to_owned(),
        slots: vec![
            slot(u32s("2"), Storage::Object),
            slot(u32s("2"), Storage::Arena),
            slot(u32s("2"), Storage::Output(0)),
        ],
        steps: vec![
            step(Action::StateRead { state: StateId(0), result: SlotId(0) }),
            add(0, 1, "2", "2", 1),
            step(Action::StateAssign { state: StateId(0), value: SlotId(1) }),
            add(0, 2, "0", "2", 1),
        ],
        inputs: vec![],
        outputs: vec![SlotId(2)],
        arena: None,
    };
    let mut program = program(vec![main]);
    program.constants.push(Constant { name: "start".to_owned(), dtype: DType::U32, dims: vec![2] });
    program.states.push(StateDecl { name: "count".to_owned(), ty: u32s("2"), initial: Some(ConstantId(0)) });
    let mut image = image(program);
    image.constants.push([40u32, 41].iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>().into());
    let session = session(image, 1);
    for i in 0..3 {
        assert_eq!(values(&session.run("main", &[]).unwrap()[0]), [40 + 2 * i, 41 + 2 * i]);
    }
    session.reset_states();
    assert_eq!(values(&session.run("main", &[]).unwrap()[0]), [40, 41]);
}

#[test]
fn a_profile_covers_every_chunk() {
    let session = session(image(program(vec![chain("64", "64", 3, 16)])), 2);
    let profile = Arc::new(profile::Profile::new());
    let options = RunOptions { profile: Some(Arc::clone(&profile)), ..RunOptions::default() };
    session.run_with("main", &[tensor(&[64], &[0; 64])], &options).unwrap();
    let (spans, work) = profile.take();
    assert_eq!((spans.len(), work.len()), (3 * 4, 3));
    assert!(work.iter().all(|w| w.chunks == 4 && w.bytes == 256));
    for step in 0..3 {
        let mut chunks: Vec<u32> = spans.iter().filter(|s| s.step.step == step).map(|s| s.chunk).collect();
        chunks.sort_unstable();
        assert_eq!(chunks, [0, 1, 2, 3]);
    }
    assert!(spans.iter().all(|s| s.start_ns <= s.end_ns && s.worker < 2));
    session.run("main", &[tensor(&[64], &[0; 64])]).unwrap();
    assert!(profile.take().0.is_empty());
}
