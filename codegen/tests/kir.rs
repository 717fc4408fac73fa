//! Text and verifier of kernel IR.

use kiln_codegen::kir::builder::{ContractShape, RhsBuilder};
use kiln_codegen::kir::sparse::Form;
use kiln_codegen::kir::{
    Access, Axis, Bound, Carried, For, Ix, KernelBuilder, LoopKind, Op, Sparse, Stmt, Val, Var, verify,
};
use kiln_ir::{DType, Prim, Scalar};

/// A kernel with every kind of statement.
fn sample() -> KernelBuilder {
    let mut b = KernelBuilder::new("sample");
    let (x, w, out) = (b.input(DType::F16), b.weights(DType::F32), b.output(DType::F32));
    let n = b.dim();
    let tmp = b.scratch(DType::F32, n.clone() * 2);
    let row = b.grid(n.clone().ceil_div(8));
    let zero = b.literal(DType::F32, 0.0);
    let sum = b.reduce(LoopKind::Vector, n.clone(), &[(Prim::Add, zero)], |b, i| {
        let shifted = i.clone() - 1;
        vec![b.load_guarded(
            x,
            row.clone() * n.clone() + shifted.clone(),
            vec![Bound::below(shifted, n.clone())],
            0.0,
        )]
    });
    let last = b.fold(3, &sum, |b, _, args| vec![b.mul_add(args[0], args[0], sum[0])]);
    let positive = b.apply(Prim::Gt, &[last[0], zero]);
    b.if_else(positive, |b| b.store(tmp, 0, last[0]), |b| b.store(tmp, 1, zero));
    let shape = ContractShape {
        m: (0.into(), 8.into()),
        n: (0.into(), 12.into()),
        taps: vec![(0.into(), 3.into())],
        k: (0.into(), n.clone()),
        acc_dtype: DType::F32,
    };
    b.contract(
        shape,
        |b, m, taps, k| b.load(x, m.clone() + taps[0].clone() + k),
        RhsBuilder::Packed { buffer: w, base: 0.into(), width: 12 },
        |b, m, n, sum| {
            let v = b.apply(Prim::Tanh, &[sum]);
            b.store(out, m.clone() * 12 + n, v);
        },
    );
    b
}

#[test]
fn the_text_shows_everything() {
    let expected = r#"kernel "sample" dims=1 {
  b0: in f16
  b1: const f32
  b2: out f32
  b3: scratch f32[d0*2]
  grid i0 < (d0 + 7) / 8
  s0: f32 = 0.0
  reduce i1 from 0 count d0 vector {
    s2: f32 = add s1 from s0
    s1: f32 = b0[i0*d0 + i1 + -1] if 0 <= i1 + -1 < d0 else 0.0
  }
  for i2 from 0 count 3 {
    carry s3: f32 from s2 next s4 gives s5
    s4: f32 = muladd s3, s3, s2
  }
  s6: bool = gt s5, s0
  if s6 {
    b3[0] = s5
  } else {
    b3[1] = s0
  }
  contract f32 {
    m i3 from 0 count 8
    n i4 from 0 count 12
    tap i5 from 0 count 3
    k i6 from 0 count d0
    a = s7 where {
      s7: f32 = b0[i3 + i5 + i6]
    }
    b = packed b1[0] width=12
    epilogue s8: f32 {
      s9: f32 = tanh s8
      b2[i3*12 + i4] = s9
    }
  }
}
"#;
    assert_eq!(sample().finish().unwrap().to_string(), expected);
}

/// The verifier's reason for refusing what `f` adds to the sample.
fn refusal(f: impl FnOnce(&mut KernelBuilder)) -> String {
    let mut b = sample();
    f(&mut b);
    b.finish().unwrap_err().reason
}

#[test]
fn broken_kernels_are_refused_with_reasons() {
    let b = |i| kiln_codegen::kir::BufferId(i);
    let stmt = |s: Stmt| move |b: &mut KernelBuilder| b.push(s);
    assert_eq!(refusal(|k| k.store(b(0), 0, Val(0))), "store to read-only b0");
    assert_eq!(refusal(|k| k.store(b(9), 0, Val(0))), "b9 is not a buffer of the kernel");
    assert_eq!(refusal(|k| k.store(b(2), 0, Val(6))), "stored value s6 has dtype bool, expected f32");
    assert_eq!(refusal(|k| k.store(b(2), Ix::Var(Var(1)), Val(0))), "i1 is used where its loop is not open");
    assert_eq!(refusal(|k| k.store(b(2), Ix::Dim(4), Val(0))), "d4 is not a dim of the kernel");
    assert_eq!(
        refusal(|k| k.store(b(2), Ix::Scalar(Val(0)), Val(0))),
        "index s0 has dtype f32, expected i64"
    );
    assert_eq!(
        refusal(stmt(Stmt::Let { dst: Val(0), op: Op::Const(Scalar::F(0.0)) })),
        "s0 is defined twice"
    );
    assert_eq!(
        refusal(|k| {
            let v = k.val(DType::F32);
            k.push(Stmt::Let { dst: v, op: Op::Const(Scalar::I(0)) });
        }),
        "s10: literal I(0) does not fit f32"
    );
    assert_eq!(
        refusal(|k| {
            k.load(b(2), 0);
        }),
        "load from output b2"
    );
    assert_eq!(
        refusal(|k| {
            k.apply(Prim::Shl, &[Val(0), Val(0)]);
        }),
        "s10: shl does not apply to f32"
    );
    assert_eq!(
        refusal(|k| {
            k.apply(Prim::Add, &[Val(0), Val(6)]);
        }),
        "operand s6 has dtype bool, expected f32"
    );
    assert_eq!(
        refusal(|k| {
            k.apply(Prim::Add, &[Val(1), Val(1)]);
        }),
        "s1 is used where its definition is not visible"
    );
    assert_eq!(
        refusal(|k| {
            k.buffer(DType::F32, Access::Scratch { len: Ix::Var(Var(0)) });
        }),
        "i0 is used where its loop is not open"
    );
    assert_eq!(
        refusal(|k| {
            k.reduce(LoopKind::Vector, 4, &[(Prim::Sub, Val(0))], |_, _| vec![Val(0)]);
        }),
        "s10: no reduction by sub of f32"
    );
    let carried = vec![Carried { init: Val(0), arg: Val(10), next: Val(10), result: Val(11) }];
    let axis = Axis { var: Var(7), begin: 0.into(), extent: 2.into() };
    let vector = For { axis, kind: LoopKind::Vector, carried, body: vec![] };
    assert_eq!(
        refusal(|k| {
            k.var();
            k.val(DType::F32);
            k.val(DType::F32);
            k.push(Stmt::For(Box::new(vector)));
        }),
        "vector loop i7 carries values"
    );
}

#[test]
fn contractions_need_bounded_extents() {
    let mut b = KernelBuilder::new("unbounded");
    let (x, out) = (b.input(DType::F32), b.output(DType::F32));
    let i = b.grid(4);
    let shape = ContractShape {
        m: (0.into(), i.clone() * 2),
        n: (0.into(), 4.into()),
        taps: vec![],
        k: (0.into(), 4.into()),
        acc_dtype: DType::F32,
    };
    b.contract(
        shape,
        |b, m, _, k| b.load(x, m.clone() + k),
        RhsBuilder::Packed { buffer: x, base: 0.into(), width: 4 },
        |b, m, n, sum| b.store(out, m.clone() + n, sum),
    );
    let error = b.finish().unwrap_err();
    assert_eq!(error.reason, "extent `i0*2` of i1 has no upper bound over constants and dims");
    assert_eq!(error.to_string(), format!("kernel `unbounded`: {}", error.reason));
}

/// What the verifier says to a contraction of sparse weights; `k` is the length of its sums, `n` begin and number of its
/// columns.
fn sparse(form: Form, [index, values, left]: [DType; 3], n: [i64; 2], k: Option<i64>) -> String {
    let mut b = KernelBuilder::new("sparse");
    let (x, index, values) = (b.input(left), b.weights(index), b.weights(values));
    let out = b.output(DType::F32);
    let k = k.map_or_else(|| b.dim(), Ix::Const);
    let shape = ContractShape {
        m: (0.into(), 8.into()),
        n: (n[0].into(), n[1].into()),
        taps: vec![],
        k: (0.into(), k),
        acc_dtype: if left.is_float() { DType::F32 } else { DType::I32 },
    };
    b.contract(
        shape,
        |b, m, _, k| b.load(x, m.clone() + k),
        RhsBuilder::Sparse(Sparse { index, values, form }),
        |b, m, n, sum| {
            let sum = b.cast(sum, DType::F32);
            b.store(out, m.clone() + n, sum);
        },
    );
    b.finish().map_or_else(|e| e.reason, |_| String::new())
}

#[test]
fn broken_sparse_operands_are_refused_with_reasons() {
    let form = Form { columns: 64, block: 4, depth: 128, rows: 64, group: 1, window: None };
    let dtypes = [DType::I32, DType::F32, DType::F32];
    let plain = |n| sparse(form, dtypes, n, Some(48));
    assert_eq!(plain([0, 64]), "");
    assert_eq!(plain([128, 24]), "");
    assert_eq!(plain([0, 65]), "columns from `0` count `65` in ranges of 64");
    assert_eq!(plain([32, 32]), "columns from `32` count `32` in ranges of 64");
    let of = |dtypes| sparse(form, dtypes, [0, 64], Some(48));
    assert_eq!(of([DType::I64, DType::F32, DType::F32]), "sparse b1 of i64, expected i32");
    assert_eq!(of([DType::I32, DType::F64, DType::F32]), "sparse b2 of f64, expected f32");
    assert_eq!(of([DType::I32, DType::F32, DType::I8]), "sparse operand in sums of i32 of i8");
    let says = |columns, block, depth, rows| {
        format!("sparse operand of b1 with columns={columns} block={block} depth={depth} rows={rows}")
    };
    assert_eq!(sparse(form, dtypes, [0, 64], None), says(64, 4, 128, 64));
    for [columns, block, depth, rows] in [
        [66, 4, 128, 64],
        [64, 3, 128, 64],
        [64, 4, 0, 64],
        [64, 4, 1 << 20, 64],
        [64, 4, 128, 24],
        [64, 4, 128, 512],
        [1 << 20, 4, 128, 64],
    ] {
        let form = Form { columns, block, depth, rows, group: 1, window: None };
        assert_eq!(sparse(form, dtypes, [0, 64], Some(48)), says(columns, block, depth, rows));
    }
    let bytes = [DType::I32, DType::I8, DType::U8];
    let quads = Form { group: 4, ..form };
    assert_eq!(sparse(quads, bytes, [0, 64], Some(46)), "");
    let of = |dtypes| sparse(quads, dtypes, [0, 64], Some(48));
    assert_eq!(of([DType::I32, DType::U8, DType::U8]), "sparse b2 of u8, expected i8");
    assert_eq!(of([DType::I32, DType::I8, DType::I8]), "sparse operand in sums of i32 of i8");
    assert_eq!(of(dtypes), "sparse b2 of f32, expected i8");
    assert_eq!(
        sparse(Form { group: 2, ..form }, dtypes, [0, 64], Some(48)),
        "groups of 2 elements of sparse b2"
    );
    assert_eq!(sparse(Form { columns: 0, ..form }, dtypes, [0, 0], Some(48)), says(0, 4, 128, 64));
}

#[test]
fn verification_is_of_the_whole_kernel() {
    let mut kernel = sample().finish().unwrap();
    kernel.dims = 0;
    assert_eq!(verify(&kernel).unwrap_err().reason, "d0 is not a dim of the kernel");
}
