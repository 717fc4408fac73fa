//! Kernel IR: what one kernel computes, as loops over affine buffer accesses with SSA scalar bodies.
//!
//! Guarantee: after [`verify`] every lowering either succeeds or returns a typed error; none panics. The IR knows
//! no vector width, no register and no CPU: a loop says that its iterations are independent
//! ([`LoopKind::Vector`]), a [`Contract`] says which products are summed, and each lowering chooses how.
//!
//! * Memory is a list of [`Buffer`]s, addressed by [`Ix`] expressions in *elements*. Scratch buffers are private to
//!   a worker and lose their content when a grid index ends.
//! * Scalars are SSA values ([`Val`]) of a *compute dtype* ([`compute_dtype`]); loads widen the storage dtype to it,
//!   stores round or wrap back.
//! * A [`Kernel`] runs its body once per point of its grid; points are independent and run in any order on any
//!   number of workers.

pub mod builder;
pub mod index;
pub mod print;
pub mod sparse;
pub mod stmt;
pub mod verify;

use std::fmt;

use kiln_ir::DType;

pub use builder::KernelBuilder;
pub use index::{Ix, Linear};
pub use sparse::Sparse;
pub use stmt::{
    Accumulator, Axis, Block, Bound, Carried, Contract, For, GROUP, Guard, LoopKind, Op, Operand, PART,
    Reduce, Rhs, Stmt,
};
pub use verify::{VerifyError, verify};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u32);

        impl $name {
            /// Position in the arena that the id indexes.
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

id!(
    /// A loop variable, prints as `i3`.
    Var,
    "i"
);
id!(
    /// An SSA scalar, prints as `s7`.
    Val,
    "s"
);
id!(
    /// A buffer of the kernel, prints as `b0`.
    BufferId,
    "b"
);

/// How a kernel uses a buffer.
#[derive(Clone, Debug, PartialEq)]
pub enum Access {
    /// Read only; a parameter.
    In,
    /// Written (every element that anybody reads later); a parameter.
    Out,
    /// Read and written; a parameter.
    InOut,
    /// Read only and known at compile time (weights); a parameter.
    Const,
    /// Private to a worker; `len` elements, an expression over constants and run-time dims only. No parameter.
    Scratch {
        /// Length in elements.
        len: Ix,
    },
}

/// A buffer declaration.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    /// Storage dtype of the elements.
    pub dtype: DType,
    /// How the kernel uses it.
    pub access: Access,
}

impl Buffer {
    /// Whether the buffer is passed by the caller (everything but scratch).
    pub fn is_param(&self) -> bool {
        !matches!(self.access, Access::Scratch { .. })
    }
}

/// A kernel: a body that runs once for every point of a parallel grid.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// Name, for messages and profiles.
    pub name: String,
    /// Buffers. The parameters among them ([`Buffer::is_param`]), in this order, are the caller's buffer table.
    pub buffers: Vec<Buffer>,
    /// Number of run-time integer parameters ([`Ix::Dim`]).
    pub dims: u32,
    /// Parallel loops, outermost first. The flattened (row-major) range of grid points is what callers split.
    /// Extents are expressions over constants and dims; an empty grid is one point.
    pub grid: Vec<(Var, Ix)>,
    /// What one grid point does.
    pub body: Block,
    /// Dtype of every SSA value.
    pub vals: Vec<DType>,
    /// Number of loop variables.
    pub vars: u32,
}

impl Kernel {
    /// Ids of the buffers that callers pass, in the order of the caller's table.
    pub fn params(&self) -> impl Iterator<Item = BufferId> + '_ {
        (0u32..).zip(&self.buffers).filter(|(_, b)| b.is_param()).map(|(i, _)| BufferId(i))
    }

    /// Number of grid points, an expression over constants and dims.
    pub fn grid_points(&self) -> Ix {
        self.grid.iter().fold(Ix::Const(1), |product, (_, extent)| product * extent.clone().max(0))
    }

    /// Dtype of a value.
    ///
    /// # Panics
    /// If the value is not of this kernel.
    pub fn dtype(&self, val: Val) -> DType {
        self.vals[val.index()]
    }
}

/// The dtype in which a loaded element of `storage` dtype is computed with: `f32` for floats below 32 bits, `i8` and
/// `u8` for packed integers, the dtype itself otherwise. `None` for strings and complex numbers, which no kernel has.
pub fn compute_dtype(storage: DType) -> Option<DType> {
    use kiln_ir::DClass;
    match storage.class() {
        DClass::Text | DClass::Complex => None,
        DClass::Float if storage.bits() < 32 => Some(DType::F32),
        DClass::Signed if storage.is_packed() => Some(DType::I8),
        DClass::Unsigned if storage.is_packed() => Some(DType::U8),
        DClass::Bool | DClass::Signed | DClass::Unsigned | DClass::Float => Some(storage),
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print::print(self, f)
    }
}
