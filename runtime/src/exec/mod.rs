//! Running functions: one thread leads, walking the items of the function; kernels run in parallel regions.

mod bind;
mod control;
mod frame;
mod run;

use bind::step_place;
pub use frame::MemoryPlan;
pub(crate) use frame::{Dims, Frame, Place, memory_plan};
pub(crate) use run::{Actual, Context, Executor, Limits};
