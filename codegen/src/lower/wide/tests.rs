//! What every function of this lowering must hold, read off its decoded instructions.

use iced_x86::{Decoder, DecoderOptions, FlowControl, InstructionInfoFactory, Mnemonic, OpAccess, Register};
use kiln_ir::{DType, Prim};

use super::quads::Quads;
use super::tile::{Lines, MOST_ROWS, Tile};
use super::{Rows, WideFunction, Width, Word, features, lanes_of_row, select, select_rows};
use crate::kir::{Bound, Kernel, KernelBuilder, LoopKind, Stmt};

const WIDTHS: [Width; 2] = [Width::W256, Width::W512];

/// Decodes a function and checks its use of registers and its frame.
fn check(function: &WideFunction, allowed: &[&str]) {
    let code = &function.bytes[function.entry..];
    assert_eq!(features(code).unwrap(), function.features);
    for feature in &function.features {
        assert!(allowed.contains(feature), "{feature}\n{}", function.listing());
    }
    let instructions: Vec<_> =
        Decoder::with_ip(64, code, function.entry as u64, DecoderOptions::NONE).into_iter().collect();
    let pushed: Vec<Register> = instructions
        .iter()
        .take_while(|i| i.mnemonic() == Mnemonic::Push)
        .map(|i| i.op0_register())
        .collect();
    let mut factory = InstructionInfoFactory::new();
    let end = (function.bytes.len()) as u64;
    for instruction in &instructions {
        assert!(!instruction.is_invalid());
        match instruction.flow_control() {
            FlowControl::Next | FlowControl::Return => {}
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
                let to = instruction.near_branch_target();
                assert!((function.entry as u64..end).contains(&to));
            }
            other => panic!("{other:?}"),
        }
        if instruction.is_ip_rel_memory_operand() {
            assert!(instruction.memory_displacement64() < function.entry as u64, "constants are in the pool");
        }
        for used in factory.info(instruction).used_registers() {
            let writes = matches!(
                used.access(),
                OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
            );
            let register = used.register().full_register();
            let preserved =
                [Register::RBX, Register::RBP, Register::R12, Register::R13, Register::R14, Register::R15];
            if writes && preserved.contains(&register) {
                assert!(pushed.contains(&register), "{register:?}\n{}", function.listing());
            }
        }
    }
    let tail: Vec<Mnemonic> = instructions.iter().rev().map(|i| i.mnemonic()).collect();
    assert_eq!(tail[0], Mnemonic::Ret);
    let pops = tail[1..].iter().take_while(|m| **m == Mnemonic::Pop).count();
    assert_eq!(pops, pushed.len());
    assert_eq!(tail[1 + pops], Mnemonic::Vzeroupper);
}

fn allowed(width: Width) -> &'static [&'static str] {
    match width {
        Width::W256 => &["avx", "avx2", "fma"],
        Width::W512 => &["avx", "avx2", "fma", "bmi1", "bmi2", "avx512f", "avx512bw", "avx512dq", "avx512vl"],
    }
}

/// The feature of dot products of bytes.
fn vnni(width: Width) -> &'static str {
    match width {
        Width::W256 => "avxvnni",
        Width::W512 => "avx512vnni",
    }
}

#[test]
fn tiles_keep_to_their_registers_and_features() {
    for vectors in WIDTHS {
        for (acc, storage) in [
            (DType::F32, DType::F32),
            (DType::F32, DType::BF16),
            (DType::F64, DType::F64),
            (DType::I32, DType::I8),
            (DType::I32, DType::U16),
        ] {
            for count in 1..=4 {
                for accumulate in [false, true] {
                    let width = count * vectors.bytes() * 8 / acc.bits() as i64;
                    for part in [None, Some(128)] {
                        let tile = Tile {
                            vectors,
                            acc,
                            storage,
                            quads: None,
                            flip: false,
                            width,
                            row_stride: if accumulate { 1600 } else { acc.bits() as i64 / 8 },
                            row_step: if accumulate { acc.bits() as i64 / 8 } else { 1600 },
                            panel_step: width,
                            lines: (!accumulate).then_some(Lines { rows: 2, stride: 9600 }),
                            sum_stride: 768,
                            taps: if accumulate { [(1, 0), (1, 0)] } else { [(3, 4096), (7, 512)] },
                            short: (!accumulate).then_some(7),
                            most_rows: MOST_ROWS,
                            prefetch: 2 * i64::from(accumulate),
                            accumulate,
                            part,
                            result: None,
                        };
                        let result = tile.result_lines(640, 16);
                        assert_eq!(result.is_some(), accumulate && vectors == Width::W512);
                        let tile = Tile { result, ..tile };
                        check(&tile.emit().unwrap(), allowed(vectors));
                        if (acc, storage, part) != (DType::I32, DType::I8, None) {
                            continue;
                        }
                        // Wide panels that are taken apart leave no registers for the rows of a line.
                        let lines = tile.lines.filter(|_| count < 3);
                        let bytes = Tile { storage: DType::I32, lines, ..tile };
                        for (quads, more) in [(Quads::Words, None), (Quads::Vnni, Some(vnni(vectors)))] {
                            for flip in [false, true] {
                                let function = Tile { quads: Some(quads), flip, ..bytes }.emit().unwrap();
                                check(&function, &[allowed(vectors), more.as_slice()].concat());
                                assert!(more.is_none_or(|more| function.features.contains(&more)));
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn tile_registers_hold_what_is_configured() {
    let lines = [None, Some(Lines { rows: 14, stride: 9600 }), Some(Lines { rows: 7, stride: 4800 })];
    for (count, lines) in (1..=4).flat_map(|count| lines.map(|lines| (count, lines))) {
        for (steps, accumulate) in [(4, false), (15, true), (16, false)] {
            let tile = Tile {
                vectors: Width::W512,
                acc: DType::I32,
                storage: DType::I32,
                quads: Some(Quads::Amx { steps }),
                flip: false,
                width: 16 * count,
                row_stride: 640,
                row_step: 4,
                panel_step: 16 * count,
                lines,
                sum_stride: 256,
                taps: if accumulate { [(1, 0), (1, 0)] } else { [(3, 4096), (7, 512)] },
                short: None,
                most_rows: MOST_ROWS,
                prefetch: 2 * i64::from(accumulate),
                accumulate,
                part: None,
                result: None,
            };
            let function = tile.emit().unwrap();
            let tiles = ["amx-int8", "amx-tile"];
            check(&function, &[allowed(Width::W512), &tiles].concat());
            assert!(tiles.iter().all(|feature| function.features.contains(feature)));
            let unit = lines.map_or(1, |lines| lines.rows as usize);
            assert!(tile.height().is_multiple_of(unit) && tile.height() >= 14);
            assert!(Tile { flip: true, ..tile }.emit().is_err(), "signed rows are no rows of tile registers");
            assert!(Tile { quads: Some(Quads::Amx { steps: 17 }), ..tile }.emit().is_err());
        }
    }
}

#[test]
fn lists_keep_to_their_registers_and_features() {
    for width in WIDTHS {
        for block in [1, 2, 4] {
            for (quads, more) in
                [(None, None), (Some(Quads::Words), None), (Some(Quads::Vnni), Some(vnni(width)))]
            {
                for &vectors in super::sparse::vectors(width, block, quads) {
                    for accumulate in [false, true] {
                        let lists =
                            super::sparse::Lists { width, quads, block, vectors, rows: 64, accumulate };
                        let function = lists.emit().unwrap();
                        check(&function, &[allowed(width), more.as_slice()].concat());
                        assert!(more.is_none_or(|more| function.features.contains(&more)));
                    }
                }
            }
        }
        for (quads, block) in [(None, 4), (Some(Quads::Words), 2)] {
            let lists =
                super::sparse::Lists { width, quads, block, vectors: 16, rows: 256, accumulate: false };
            assert!(lists.emit().is_err());
        }
    }
}

#[test]
fn transpositions_keep_to_their_registers_and_features() {
    for (source, destination) in [(256, 256), (3072, 64), (1 << 20, 192)] {
        check(&super::transpose::transpose(source, destination).unwrap(), allowed(Width::W512));
    }
    assert!(super::transpose::transpose(1 << 30, 64).is_err());
}

/// A loop with `chain` values that live to its end, an elementary function and a guarded load.
fn kernel(chain: usize) -> Kernel {
    let mut b = KernelBuilder::new("loop");
    let (x, out) = (b.input(DType::F32), b.output(DType::F32));
    let row = b.grid(4);
    b.vector(100, |b, i| {
        let index = row.clone() * 100 + i.clone();
        let bounds = vec![Bound::below(row.clone() - 1, 2)];
        let mut values = vec![b.load_guarded(x, index.clone(), bounds, -1.0)];
        for n in 0..chain {
            let c = b.literal(DType::F32, n as f64);
            let last = values[n];
            values.push(b.apply(Prim::Add, &[last, c]));
        }
        let mut sum = b.apply(Prim::Erf, &[values[0]]);
        for v in values {
            sum = b.apply(Prim::Mul, &[sum, v]);
        }
        b.store(out, index, sum);
    });
    b.finish().unwrap()
}

#[test]
fn loops_keep_to_their_registers_and_features_and_spill() {
    for width in WIDTHS {
        for chain in [0, 5, 40] {
            let kernel = kernel(chain);
            let [Stmt::For(l)] = kernel.body.as_slice() else { panic!("one loop") };
            let selection = select(&kernel, width, None, &l.axis, &l.body, &[]).unwrap();
            for count in [None, Some(100), Some(128)] {
                let function = selection.function(count, width).unwrap();
                check(&function, allowed(width));
                if chain == 40 && width == Width::W256 {
                    assert!(function.listing().contains("rsp+"), "{}", function.listing());
                }
            }
        }
    }
}

#[test]
fn loads_behind_a_guard_share_an_address_that_is_inside_where_it_fails() {
    let mut b = KernelBuilder::new("window");
    let (x, out) = (b.input(DType::F32), b.output(DType::F32));
    let row = b.grid(4);
    b.vector(100, |b, i| {
        let at = row.clone() * 100 + i.clone();
        let above = vec![Bound::below(row.clone() - 1, 4)];
        let right = b.load_guarded(x, at.clone() - 96, above.clone(), 0.0);
        let left = b.load_guarded(x, at.clone() - 104, above, 0.0);
        let own = b.load(x, at.clone());
        let sum = b.apply(Prim::Add, &[left, right]);
        let sum = b.apply(Prim::Add, &[sum, own]);
        b.store(out, at, sum);
    });
    let kernel = b.finish().unwrap();
    let [Stmt::For(l)] = kernel.body.as_slice() else { panic!("one loop") };
    for width in WIDTHS {
        let selection = select(&kernel, width, None, &l.axis, &l.body, &[]).unwrap();
        let of_x = |word: &Word| match word {
            Word::Address { buffer, guard, .. } if *buffer == x => Some(guard.as_ref().map(|g| g.offset)),
            _ => None,
        };
        let addresses: Vec<_> = selection.words.iter().filter_map(of_x).collect();
        assert_eq!(addresses, [Some(-104), None]);
    }
}

#[test]
fn long_loops_keep_constants_in_registers() {
    let mut b = KernelBuilder::new("loop");
    let (x, out) = (b.input(DType::F32), b.output(DType::F32));
    let n = b.dim();
    b.vector(n, |b, i| {
        let v = b.load(x, i.clone());
        let v = b.apply(Prim::Exp, &[v]);
        b.store(out, i, v);
    });
    let kernel = b.finish().unwrap();
    let [Stmt::For(l)] = kernel.body.as_slice() else { panic!("one loop") };
    let selection = select(&kernel, Width::W512, None, &l.axis, &l.body, &[]).unwrap();
    let constants_of_the_main_loop = |count| {
        let function = selection.function(count, Width::W512).unwrap();
        let code = &function.bytes[function.entry..];
        let all: Vec<_> =
            Decoder::with_ip(64, code, function.entry as u64, DecoderOptions::NONE).into_iter().collect();
        let back = |i: &&iced_x86::Instruction| {
            i.flow_control() == FlowControl::ConditionalBranch && i.near_branch_target() < i.ip()
        };
        let end = all.iter().find(back);
        let main = end.map_or(0..0, |end| end.near_branch_target()..end.ip());
        let constant = |i: &&iced_x86::Instruction| main.contains(&i.ip()) && i.is_ip_rel_memory_operand();
        all.iter().filter(constant).count()
    };
    assert_eq!(constants_of_the_main_loop(None), 0);
    assert_eq!(constants_of_the_main_loop(Some(256)), 0);
    // One iteration is no reason to load them first.
    assert!(constants_of_the_main_loop(Some(64)) > 0);
}

/// Softmax of rows of 100, the exponentials kept.
fn rows() -> Kernel {
    let mut b = KernelBuilder::new("rows");
    let (x, out) = (b.input(DType::F32), b.output(DType::F32));
    let kept = b.scratch(DType::F32, 100);
    b.sequential(7, |b, row| {
        let at = row * 100;
        let low = b.literal(DType::F32, f64::NEG_INFINITY);
        let max =
            b.reduce(LoopKind::Vector, 100, &[(Prim::Max, low)], |b, i| vec![b.load(x, at.clone() + i)])[0];
        let zero = b.literal(DType::F32, 0.0);
        let sum = b.reduce(LoopKind::Vector, 100, &[(Prim::Add, zero)], |b, i| {
            let v = b.load(x, at.clone() + i.clone());
            let v = b.apply(Prim::Sub, &[v, max]);
            let v = b.apply(Prim::Exp, &[v]);
            b.store(kept, i, v);
            vec![v]
        })[0];
        let root = b.apply(Prim::Sqrt, &[sum]);
        b.vector(100, |b, i| {
            let v = b.load(kept, i.clone());
            let v = b.apply(Prim::Div, &[v, root]);
            b.store(out, at.clone() + i, v);
        });
    });
    b.finish().unwrap()
}

#[test]
fn rows_keep_to_their_registers_and_features() {
    let kernel = rows();
    let [Stmt::For(l)] = kernel.body.as_slice() else { panic!("one loop") };
    let axis = lanes_of_row(&l.body).unwrap();
    for width in WIDTHS {
        let rows = Rows { axis: l.axis.clone(), tile: 1 };
        let selection = select_rows(&kernel, width, &rows, axis, &l.body).unwrap();
        for count in [None, Some(100), Some(128)] {
            check(&selection.function(count, width).unwrap(), allowed(width));
        }
    }
}
