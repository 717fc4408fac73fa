//! Crates with matrix products of `f32`, on one thread.
//!
//! They compute the product alone, without bias and epilogue. `rten-gemm` gets its weights packed before, as Kiln does;
//! the others have no such form and pack in every run.

use gemm::Parallelism;
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions};
use rten_tensor::{AsView, NdTensor};

use crate::Result;
use crate::contraction::Peer;
use crate::kernel::number;

/// The peers on `[m, k] x [k, n]`, row-major.
pub fn all(shape: [usize; 3]) -> Result<Vec<Peer>> {
    Ok(vec![gemm_crate(shape), matrixmultiply_crate(shape), rten(shape)?])
}

struct Operands {
    a: Vec<f32>,
    b: Vec<f32>,
    out: Vec<f32>,
}

fn operands([m, n, k]: [usize; 3]) -> Operands {
    let numbers = |count: usize| (0..count).map(number).collect();
    Operands { a: numbers(m * k), b: numbers(k * n), out: vec![0.0; m * n] }
}

fn gemm_crate([m, n, k]: [usize; 3]) -> Peer {
    let Operands { a, b, mut out } = operands([m, n, k]);
    let (ks, ns) = (k as isize, n as isize);
    let run = move || {
        let (a, b, out) = (a.as_ptr(), b.as_ptr(), out.as_mut_ptr());
        // SAFETY: the pointers are to m x k, k x n and m x n elements with these strides.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                out,
                1,
                ns,
                false,
                a,
                1,
                ks,
                b,
                1,
                ns,
                0.0,
                1.0,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
    };
    Peer { name: "gemm", run: Box::new(run) }
}

fn matrixmultiply_crate([m, n, k]: [usize; 3]) -> Peer {
    let Operands { a, b, mut out } = operands([m, n, k]);
    let (ks, ns) = (k as isize, n as isize);
    let run = move || {
        let (a, b, out) = (a.as_ptr(), b.as_ptr(), out.as_mut_ptr());
        // SAFETY: the pointers are to m x k, k x n and m x n elements with these strides.
        unsafe { matrixmultiply::sgemm(m, k, n, 1.0, a, ks, 1, b, ns, 1, 0.0, out, ns, 1) }
    };
    Peer { name: "matrixmultiply", run: Box::new(run) }
}

fn rten([m, n, k]: [usize; 3]) -> Result<Peer> {
    let Operands { a, b, mut out } = operands([m, n, k]);
    let (a, b) = (NdTensor::from_data([m, k], a), NdTensor::from_data([k, n], b));
    let executor = GemmExecutor::<f32>::new();
    let packed = executor.prepack_b(b.view());
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    let run = move || {
        let (lhs, rhs) = (GemmInputA::Unpacked(a.view()), GemmInputB::Packed(&packed));
        let done = pool.install(|| executor.gemm(&mut out, lhs, rhs, GemmOptions::default()));
        assert!(done.is_ok(), "the shapes agree");
    };
    Ok(Peer { name: "rten-gemm", run: Box::new(run) })
}
