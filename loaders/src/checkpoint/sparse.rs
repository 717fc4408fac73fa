//! Dense forms of sparse tensors, as torch lays them out.

use kiln_ir::DType;

use super::element::Element;
use super::tensor::{CheckpointTensor, Sparse, TensorFault, count};

/// The elements of a sparse tensor of that shape, row-major. The caller bounds the shape.
pub(super) fn dense(sparse: &Sparse, shape: &[usize], element: Element) -> Result<Vec<u8>, TensorFault> {
    let size = element.size().ok_or_else(|| TensorFault::Packed(element.to_string()))?;
    let bytes = count(shape)?.checked_mul(size).ok_or_else(|| TensorFault::Shape(shape.to_vec()))?;
    let mut out = vec![0; bytes];
    match sparse {
        Sparse::Coo { indices, values } => coo(indices, values, shape, size, &mut out)?,
        Sparse::Compressed { rows, starts, plain, values } => {
            let matrices = Matrices { rows: *rows, starts, plain, values, shape, size };
            matrices.fill(&mut out)?;
        }
    }
    Ok(out)
}

/// Indices as numbers; none may be negative.
fn numbers(tensor: &CheckpointTensor) -> Result<Vec<usize>, TensorFault> {
    let bytes = tensor.bytes(0)?;
    let number = |n: i64| usize::try_from(n).map_err(|_| TensorFault::Indices);
    match tensor.element {
        Element::Plain(DType::I64) => {
            bytes.as_chunks::<8>().0.iter().map(|b| number(i64::from_le_bytes(*b))).collect()
        }
        Element::Plain(DType::I32) => {
            bytes.as_chunks::<4>().0.iter().map(|b| number(i64::from(i32::from_le_bytes(*b)))).collect()
        }
        other => Err(TensorFault::Description(format!("its indices are of type {other}"))),
    }
}

/// Puts one entry in its place. Entries of the same place would have to be added up.
fn put(out: &mut [u8], filled: &mut [bool], at: usize, entry: &[u8]) -> Result<(), TensorFault> {
    let place = filled.get_mut(at).ok_or(TensorFault::Indices)?;
    if std::mem::replace(place, true) {
        let reason = "several entries of the sparse tensor have the same place; coalesce it before saving";
        return Err(TensorFault::Description(reason.to_owned()));
    }
    let range = at * entry.len()..(at + 1) * entry.len();
    out.get_mut(range).ok_or(TensorFault::Indices)?.copy_from_slice(entry);
    Ok(())
}

fn coo(
    indices: &CheckpointTensor,
    values: &CheckpointTensor,
    shape: &[usize],
    size: usize,
    out: &mut [u8],
) -> Result<(), TensorFault> {
    let &[dims, entries] = indices.shape.as_slice() else { return Err(TensorFault::Indices) };
    let (sparse, dense) = shape.split_at_checked(dims).ok_or(TensorFault::Indices)?;
    let fits = values.shape.split_first().is_some_and(|(&n, rest)| n == entries && rest == dense);
    if !fits {
        return Err(TensorFault::Indices);
    }
    let row = count(dense)?.checked_mul(size).ok_or(TensorFault::Indices)?;
    if row == 0 {
        return Ok(());
    }
    let (index, data) = (numbers(indices)?, values.bytes(0)?);
    let mut filled = vec![false; out.len() / row];
    for (n, entry) in data.chunks_exact(row).enumerate() {
        let mut at = 0usize;
        for (d, &dim) in sparse.iter().enumerate() {
            let i = index.get(d * entries + n).copied().filter(|&i| i < dim).ok_or(TensorFault::Indices)?;
            at = at * dim + i;
        }
        put(out, &mut filled, at, entry)?;
    }
    Ok(())
}

/// Matrices with compressed rows or columns.
struct Matrices<'a> {
    rows: bool,
    starts: &'a CheckpointTensor,
    plain: &'a CheckpointTensor,
    values: &'a CheckpointTensor,
    shape: &'a [usize],
    size: usize,
}

impl Matrices<'_> {
    fn fill(&self, out: &mut [u8]) -> Result<(), TensorFault> {
        let (Some((&ends, batch)), Some((&entries, batch_of_plain))) =
            (self.starts.shape.split_last(), self.plain.shape.split_last())
        else {
            return Err(TensorFault::Indices);
        };
        let (outer, inner) = self.shape.split_at_checked(batch.len()).ok_or(TensorFault::Indices)?;
        let &[height, width] = inner else { return Err(TensorFault::Indices) };
        let rest = self.values.shape.strip_prefix(batch).ok_or(TensorFault::Indices)?;
        let (block_height, block_width) = match *rest {
            [n] if n == entries => (1, 1),
            [n, h, w] if n == entries && h > 0 && w > 0 => (h, w),
            _ => return Err(TensorFault::Indices),
        };
        let lines = if self.rows { height / block_height } else { width / block_width };
        if batch != batch_of_plain || batch != outer || lines.checked_add(1) != Some(ends) {
            return Err(TensorFault::Indices);
        }
        let (starts, plain) = (numbers(self.starts)?, numbers(self.plain)?);
        let data = self.values.bytes(0)?;
        let mut filled = vec![false; out.len() / self.size];
        for matrix in 0..count(batch)? {
            for line in 0..lines {
                let start = |i: usize| starts.get(matrix * ends + i).copied().ok_or(TensorFault::Indices);
                let range = start(line)?..start(line + 1)?;
                if range.start > range.end || range.end > entries {
                    return Err(TensorFault::Indices);
                }
                for entry in range {
                    let entry = matrix * entries + entry;
                    let other = plain.get(entry).copied().ok_or(TensorFault::Indices)?;
                    let (row, column) = if self.rows { (line, other) } else { (other, line) };
                    for cell in 0..block_height * block_width {
                        let y = row.saturating_mul(block_height).saturating_add(cell / block_width);
                        let x = column.saturating_mul(block_width).saturating_add(cell % block_width);
                        let from = (entry * block_height * block_width + cell) * self.size;
                        let bytes = data.get(from..from + self.size).ok_or(TensorFault::Indices)?;
                        if y >= height || x >= width {
                            return Err(TensorFault::Indices);
                        }
                        put(out, &mut filled, (matrix * height + y) * width + x, bytes)?;
                    }
                }
            }
        }
        Ok(())
    }
}
