//! Running functions: one thread leads, walking the items of the function; kernels run in parallel regions.

mod bind;
mod control;
mod frame;
mod run;

use bind::step_place;
pub(crate) use frame::{Dims, Frame, Place};
pub(crate) use run::{Actual, Context, Executor, Limits};
