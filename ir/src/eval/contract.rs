//! Contractions.

use crate::op::{Contract, ContractSpec};
use crate::{DType, Tensor};

use super::cx::Cx;
use super::fault::{Fault, invalid};
use super::lanes::Lanes;
use super::walk::{Walk, product, strides};

/// What contractions and convolutions multiply and sum: doubles, or integers modulo 2^64, which is exact for every
/// integer dtype after the final wrap.
pub(super) trait Number: Copy {
    const ZERO: Self;
    fn add_product(self, a: Self, b: Self) -> Self;
}

impl Number for f64 {
    const ZERO: f64 = 0.0;
    fn add_product(self, a: f64, b: f64) -> f64 {
        self + a * b
    }
}

impl Number for i64 {
    const ZERO: i64 = 0;
    fn add_product(self, a: i64, b: i64) -> i64 {
        self.wrapping_add(a.wrapping_mul(b))
    }
}

/// The elements of two operands in one number type.
pub(super) enum Pair {
    F(Vec<f64>, Vec<f64>),
    I(Vec<i64>, Vec<i64>),
}

impl Pair {
    /// Decodes the operands of a product whose result is `out`: one floating dtype, or integers with an integer
    /// `out`.
    pub(super) fn decode(a: &Tensor, b: &Tensor, out: DType) -> Result<Pair, Fault> {
        let modulo = |v: Vec<i128>| v.into_iter().map(|v| v as i64).collect();
        match (Lanes::decode(a)?, Lanes::decode(b)?) {
            (Lanes::F(x), Lanes::F(y)) if out.is_float() => Ok(Pair::F(x, y)),
            (Lanes::I(x), Lanes::I(y)) if out.is_int() => Ok(Pair::I(modulo(x), modulo(y))),
            _ => invalid(format!("operands of {} and {} with a result of {out}", a.dtype(), b.dtype())),
        }
    }
}

/// Sums as a tensor.
pub(super) fn encode_f64(values: Vec<f64>, dtype: DType, dims: &[usize]) -> Result<Tensor, Fault> {
    Lanes::F(values).encode(dtype, dims)
}

/// Sums as a tensor, wrapped to `dtype`.
pub(super) fn encode_i64(values: Vec<i64>, dtype: DType, dims: &[usize]) -> Result<Tensor, Fault> {
    Lanes::I(values.into_iter().map(i128::from).collect()).encode(dtype, dims)
}

/// Sum of products over the labels that the result lacks.
pub(super) fn contract(cx: &mut Cx<'_>, op: &Contract, a: &Tensor, b: &Tensor) -> Result<Tensor, Fault> {
    let Contract::Einsum { spec, out } = op;
    let plan = Plan::new(spec, a.dims(), b.dims())?;
    cx.admit(*out, &plan.out_dims)?;
    cx.admit(*out, &[plan.batch, plan.m, plan.n])?;
    match Pair::decode(a, b, *out)? {
        Pair::F(x, y) => encode_f64(plan.run(cx, &x, &y)?, *out, &plan.out_dims),
        Pair::I(x, y) => encode_i64(plan.run(cx, &x, &y)?, *out, &plan.out_dims),
    }
}

/// A contraction as a batch of matrix products `[batch, m, k] x [batch, k, n]`.
struct Plan {
    batch: usize,
    m: usize,
    n: usize,
    k: usize,
    /// Walk of the left operand in `[batch, m, k]` order: dims and strides.
    lhs: (Vec<usize>, Vec<isize>),
    /// Walk of the right operand in `[batch, k, n]` order.
    rhs: (Vec<usize>, Vec<isize>),
    /// Walk of the result in `[batch, m, n]` order.
    out: (Vec<usize>, Vec<isize>),
    out_dims: Vec<usize>,
}

impl Plan {
    fn new(spec: &ContractSpec, a: &[usize], b: &[usize]) -> Result<Plan, Fault> {
        if spec.lhs.len() != a.len() || spec.rhs.len() != b.len() {
            return invalid(format!("`{spec}` of shapes {a:?} and {b:?}"));
        }
        let find = |labels: &[u8], l: u8| labels.iter().position(|x| *x == l);
        let size = |l: u8| match (find(&spec.lhs, l), find(&spec.rhs, l)) {
            (Some(i), Some(j)) if a[i] != b[j] => {
                invalid(format!("label `{}` is {} and {}", char::from(l), a[i], b[j]))
            }
            (Some(i), _) => Ok(a[i]),
            (None, Some(j)) => Ok(b[j]),
            (None, None) => invalid(format!("label `{}` is in no operand", char::from(l))),
        };
        let in_both = |l: &u8| spec.lhs.contains(l) && spec.rhs.contains(l);
        let pick =
            |from: &[u8], f: &dyn Fn(&u8) -> bool| from.iter().copied().filter(|l| f(l)).collect::<Vec<u8>>();
        let batch = pick(&spec.out, &in_both);
        let m = pick(&spec.out, &|l| !spec.rhs.contains(l));
        let n = pick(&spec.out, &|l| !spec.lhs.contains(l));
        let k = pick(&spec.lhs, &|l| !spec.out.contains(l));
        if k.iter().any(|l| !in_both(l))
            || spec.rhs.iter().any(|l| !spec.out.contains(l) && !spec.lhs.contains(l))
        {
            return invalid(format!("`{spec}` sums a label of one operand"));
        }
        let sizes = |labels: &[u8]| labels.iter().map(|&l| size(l)).collect::<Result<Vec<usize>, Fault>>();
        let walk = |labels: &[u8], dims: &[usize], order: &[&[u8]]| {
            let (own, order) = (strides(dims), order.concat());
            let stride = order.iter().map(|&l| find(labels, l).map_or(0, |i| own[i])).collect();
            Ok::<_, Fault>((sizes(&order)?, stride))
        };
        let out_dims = sizes(&spec.out)?;
        Ok(Plan {
            batch: product(&sizes(&batch)?)?,
            m: product(&sizes(&m)?)?,
            n: product(&sizes(&n)?)?,
            k: product(&sizes(&k)?)?,
            lhs: walk(&spec.lhs, a, &[&batch, &m, &k])?,
            rhs: walk(&spec.rhs, b, &[&batch, &k, &n])?,
            out: walk(&spec.out, &out_dims, &[&batch, &m, &n])?,
            out_dims,
        })
    }

    fn run<T: Number>(&self, cx: &mut Cx<'_>, a: &[T], b: &[T]) -> Result<Vec<T>, Fault> {
        let a: Vec<T> = Walk::new(&self.lhs.0, &self.lhs.1, 0).map(|i| a[i]).collect();
        let b: Vec<T> = Walk::new(&self.rhs.0, &self.rhs.1, 0).map(|i| b[i]).collect();
        let (m, n, k) = (self.m, self.n, self.k);
        let mut sums = vec![T::ZERO; self.batch * m * n];
        for batch in 0..self.batch {
            let b = &b[batch * k * n..(batch + 1) * k * n];
            for i in 0..m {
                cx.tick(n.saturating_mul(k))?;
                let a = &a[(batch * m + i) * k..][..k];
                let row = &mut sums[(batch * m + i) * n..][..n];
                for (&a, b) in a.iter().zip(b.chunks_exact(n.max(1))) {
                    for (sum, &b) in row.iter_mut().zip(b) {
                        *sum = sum.add_product(a, b);
                    }
                }
            }
        }
        let mut out = vec![T::ZERO; sums.len()];
        for (to, sum) in Walk::new(&self.out.0, &self.out.1, 0).zip(sums) {
            out[to] = sum;
        }
        Ok(out)
    }
}
