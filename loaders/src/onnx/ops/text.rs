//! Strings.

use kiln_ir::Build;
use kiln_ir::op::Host;

use super::{How, Row, row};
use crate::onnx::cx::{Cx, Outputs, one};

use How::Fn;

pub(super) const ROWS: &[Row] = &[row("StringConcat", &[20], Fn(concat))];

fn concat(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    one(cx.b.add1(Host::StringConcat {}, &[a, b])?)
}
