//! Elementwise kernels of all dtypes and primitives over matrices of fixed and of run-time sizes.

use kiln_codegen::kir::{Ix, KernelBuilder, Val, compute_dtype};
use kiln_ir::DType;

use super::scalar::{self, PATTERNS, activation, bits, read, step};
use crate::agreement::Case;
use crate::choices::Choices;

pub fn grow(c: &mut Choices<'_>) -> Vec<Case> {
    let mut b = KernelBuilder::new("pointwise");
    let single = c.below(3) == 0;
    let pick = |c: &mut Choices<'_>| if single { DType::F32 } else { scalar::dtype(c) };
    let inputs: Vec<_> = (0..1 + c.below(3)).map(|_| (b.input(pick(c)), c.of(&PATTERNS))).collect();
    let output = pick(c);
    let out = b.output(output);
    let (rows, columns) =
        (c.between(0, 3), if c.below(8) == 1 { c.between(0, 300) } else { c.between(0, 40) });
    let (m, n, dims): (Ix, Ix, _) = match c.below(3) {
        0 => (rows.into(), columns.into(), vec![]),
        1 => (rows.into(), b.dim(), vec![columns]),
        _ => (b.dim(), b.dim(), vec![rows, columns]),
    };
    let row = b.grid(m.clone());
    let strided = c.below(8) == 1;
    b.vector(n.clone(), |b, column| {
        let mut values: Vec<Val> =
            inputs.iter().map(|&(id, p)| read(b, id, p, [&row, &column], [&m, &n])).collect();
        // Bits of what is exact: results of operations may differ in their last ones.
        if c.below(6) == 1 {
            let x = c.of(&values);
            values.push(bits(b, c, x));
        }
        for _ in 0..c.below(8) {
            if c.below(6) == 1 && b.dtype(values[values.len() - 1]).is_float() {
                let value = activation(b, c, values[values.len() - 1]);
                values.push(value);
            }
            step(b, c, &mut values, !single);
        }
        let value = b.cast(values[values.len() - 1], compute_dtype(output).expect("a number"));
        let at = if strided { (row.clone() * &n + column) * 2 } else { row.clone() * &n + column };
        b.store(out, at, value);
    });
    let mut lengths = vec![scalar::reach(rows, columns); inputs.len()];
    lengths.push(rows * columns * if strided { 2 } else { 1 });
    super::case(c, b, &lengths, dims, super::LARGEST)
}
