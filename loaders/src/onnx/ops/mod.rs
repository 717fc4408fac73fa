//! The operators: one row each, in files by family. A row is a name, the opset versions in which the operator changed,
//! and how it is imported.

mod attention;
mod contrib;
mod control;
mod conv;
mod elementwise;
mod generate;
mod gradient;
mod image;
mod index;
mod linear;
mod loss;
mod matmul;
mod ml;
mod movement;
mod norm;
mod object;
mod order;
mod pool;
mod quant;
mod reduce;
mod resize;
mod rnn;
mod signal;
mod text;
mod training;
mod trees;

use std::sync::OnceLock;

use rustc_hash::FxHashMap;

use super::cx::{Cx, Outputs};

/// The importer of an operator.
pub(super) type Import = fn(&mut Cx<'_, '_, '_>) -> Outputs;

/// How an operator is imported.
#[derive(Clone, Copy)]
pub(super) enum How {
    /// A row of graph IR's elementwise table with this name; operands broadcast, also by the rules before opset 7.
    Ew(&'static str),
    /// The same with float attributes: ONNX names and defaults, in the row's order.
    EwAttrs(&'static str, &'static [(&'static str, f32)]),
    /// A function.
    Fn(Import),
}

/// One operator.
pub(super) struct Row {
    domain: &'static str,
    name: &'static str,
    since: &'static [i64],
    how: How,
}

/// A row of the default domain.
const fn row(name: &'static str, since: &'static [i64], how: How) -> Row {
    Row { domain: "", name, since, how }
}

/// A row of another domain, version 1.
const fn row_of(domain: &'static str, name: &'static str, import: Import) -> Row {
    Row { domain, name, since: &[1], how: How::Fn(import) }
}

/// A row of `ai.onnx.ml`.
const fn row_ml(name: &'static str, since: &'static [i64], import: Import) -> Row {
    Row { domain: "ai.onnx.ml", name, since, how: How::Fn(import) }
}

const MICROSOFT: &str = "com.microsoft";

static FAMILIES: &[&[Row]] = &[
    attention::ROWS,
    contrib::activation::ROWS,
    contrib::attention::ROWS,
    contrib::conv::ROWS,
    contrib::experts::ROWS,
    contrib::grouped::ROWS,
    contrib::hash::ROWS,
    contrib::linear::ROWS,
    contrib::matmul::ROWS,
    contrib::movement::ROWS,
    contrib::nbits::ROWS,
    contrib::norm::ROWS,
    contrib::qlinear::ROWS,
    contrib::recurrent::ROWS,
    contrib::rotary::ROWS,
    contrib::streams::ROWS,
    control::ROWS,
    conv::ROWS,
    elementwise::ROWS,
    generate::ROWS,
    gradient::ROWS,
    image::ROWS,
    index::ROWS,
    linear::ROWS,
    loss::ROWS,
    matmul::ROWS,
    ml::ROWS,
    movement::ROWS,
    norm::ROWS,
    object::ROWS,
    order::ROWS,
    pool::ROWS,
    quant::ROWS,
    reduce::ROWS,
    resize::ROWS,
    rnn::ROWS,
    signal::ROWS,
    text::ROWS,
    training::ROWS,
    trees::ROWS,
];

/// The row of an operator. Contributed operators are also found in the default domain, where some exporters put them.
pub(super) fn find(domain: &str, name: &str) -> Option<&'static Row> {
    static BY_NAME: OnceLock<FxHashMap<(&'static str, &'static str), &'static Row>> = OnceLock::new();
    let rows = BY_NAME
        .get_or_init(|| FAMILIES.iter().flat_map(|f| f.iter()).map(|r| ((r.domain, r.name), r)).collect());
    let own = rows.get(&(domain, name));
    own.or_else(|| rows.get(&(MICROSOFT, name)).filter(|_| domain.is_empty())).copied()
}

impl Row {
    /// Name with the domain, unless that is the default one.
    pub(super) fn qualified_name(&self) -> String {
        if self.domain.is_empty() { self.name.to_owned() } else { format!("{}.{}", self.domain, self.name) }
    }

    /// The version of the operator in an opset.
    pub(super) fn version(&self, opset: i64) -> i64 {
        self.since.iter().rev().find(|&&v| v <= opset).or(self.since.first()).copied().unwrap_or(opset)
    }

    /// Imports a node.
    pub(super) fn import(&self, cx: &mut Cx<'_, '_, '_>) -> Outputs {
        match self.how {
            How::Ew(name) => elementwise::import(cx, name, &[]),
            How::EwAttrs(name, attrs) => elementwise::import(cx, name, attrs),
            How::Fn(import) => import(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_versions_ascend() {
        let rows: Vec<&Row> = FAMILIES.iter().flat_map(|f| f.iter()).collect();
        let mut names: Vec<_> = rows.iter().map(|r| (r.domain, r.name)).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), rows.len(), "an operator has two rows");
        for r in rows {
            assert!(r.since.is_sorted() && !r.since.is_empty(), "{}", r.name);
            if let How::Ew(name) = r.how {
                assert!(kiln_ir::Ew::from_name(name).is_some(), "{name}");
            }
            if let How::EwAttrs(name, attrs) = r.how {
                let ew = kiln_ir::Ew::from_name(name).expect(name);
                assert_eq!(ew.row().attrs.len(), attrs.len(), "{name}");
            }
        }
    }
}
