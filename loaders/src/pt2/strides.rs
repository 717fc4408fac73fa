//! What strides tell of views.

use kiln_ir::Dim;

use super::expr;
use super::program::{SymInt, TensorMeta};

fn dim(size: &SymInt) -> Option<Dim> {
    match size {
        SymInt::AsInt(value) => Some(Dim::known(*value)),
        SymInt::AsExpr(text) => expr::parse(&text.expr_str, &|name| Dim::symbol(name)),
    }
}

/// Whether the elements lie one after the other; none if the sizes do not tell.
pub(super) fn contiguous(meta: &TensorMeta) -> Option<bool> {
    if meta.sizes.len() != meta.strides.len() {
        return None;
    }
    let mut expected = Dim::known(1);
    for (size, stride) in meta.sizes.iter().zip(&meta.strides).rev() {
        let (size, stride) = (dim(size)?, dim(stride)?);
        if size.as_known() == Some(1) {
            continue;
        }
        if stride != expected {
            let known = stride.as_known().is_some() && expected.as_known().is_some();
            return if known { Some(false) } else { None };
        }
        expected = expected * size;
    }
    Some(true)
}

fn known(sizes: &[SymInt]) -> Option<Vec<i64>> {
    sizes.iter().map(|size| dim(size)?.as_known().filter(|v| *v >= 0)).collect()
}

/// Whether `base` shows as `result` without a copy, by the rule of `torch.reshape`; none if the sizes do not tell.
pub(super) fn reshapes(base: &TensorMeta, result: &TensorMeta) -> Option<bool> {
    if contiguous(base) == Some(true) || (base.sizes == result.sizes && base.strides == result.strides) {
        return Some(true);
    }
    let (sizes, strides, new) = (known(&base.sizes)?, known(&base.strides)?, known(&result.sizes)?);
    if sizes.len() != strides.len() || sizes.contains(&0) {
        return None;
    }
    let mut axes = sizes.iter().zip(&strides).rev().peekable();
    let mut wanted = new.iter().rev().peekable();
    let Some((_, &(mut chunk_stride))) = axes.peek().copied() else { return Some(true) };
    let (mut elements, mut covered) = (1i64, 1i64);
    while let Some((size, _)) = axes.next() {
        elements = elements.checked_mul(*size)?;
        // A chunk ends where the axis before does not go on with the same stride.
        let before = axes.peek().copied();
        if before.is_some_and(|(n, stride)| *n == 1 || elements.checked_mul(chunk_stride) == Some(*stride)) {
            continue;
        }
        while let Some(n) = wanted.next_if(|n| covered < elements || **n == 1) {
            covered = covered.checked_mul(*n)?;
        }
        if covered != elements {
            return Some(false);
        }
        if let Some((_, stride)) = before {
            (chunk_stride, elements, covered) = (*stride, 1, 1);
        }
    }
    Some(wanted.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(sizes: &[i64], strides: &[i64]) -> TensorMeta {
        let list = |values: &[i64]| values.iter().map(|&v| SymInt::AsInt(v)).collect();
        let (sizes, strides) = (list(sizes), list(strides));
        TensorMeta { dtype: 7, sizes, strides, storage_offset: SymInt::AsInt(0), layout: None }
    }

    #[test]
    fn what_pytorch_views_and_what_it_copies() {
        let cases: [(&[i64], &[i64], &[i64], bool); 8] = [
            (&[3, 2], &[2, 1], &[6], true),
            (&[2, 3], &[1, 2], &[6], false),
            (&[2, 3], &[1, 2], &[2, 1, 3], true),
            (&[4, 6], &[12, 1], &[4, 2, 3], true),
            (&[4, 6], &[12, 1], &[24], false),
            (&[4, 3, 2], &[6, 1, 3], &[4, 6], false),
            (&[5, 1, 4], &[9, 4, 2], &[20], false),
            (&[5, 4], &[8, 2], &[20], true),
        ];
        for (sizes, strides, new, is_view) in cases {
            let found = reshapes(&meta(sizes, strides), &meta(new, &vec![1; new.len()]));
            assert_eq!(found, Some(is_view), "{sizes:?} {strides:?} {new:?}");
        }
        assert_eq!(contiguous(&meta(&[3, 1, 2], &[2, 9, 1])), Some(true));
    }
}
