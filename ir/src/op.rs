//! Operators, in families. A family is one enum whose variants carry their attributes; the [`family!`] macro gives
//! each its mnemonic, attribute printing and parsing, so that an operator is declared in one place.
//!
//! Operators compare and hash by value (floats by bits), which makes common-subexpression elimination a map lookup.

mod attr;
mod families;
mod host;

use smallvec::SmallVec;

pub use attr::{Attr, AttrError, Cursor};
pub use families::*;
pub use host::*;

use crate::{DType, Dim, Ew, Float};

/// An elementwise operator of the table with its float attributes, in the row's order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Elementwise {
    /// The row.
    pub kind: Ew,
    /// Values of the row's attributes.
    pub attrs: SmallVec<[Float; 2]>,
}

/// Conversion between dtypes. Float to integer truncates toward zero and saturates (NaN gives 0); integer to
/// integer wraps; to bool is `!= 0`; to f8 and f4 rounds to nearest even, to f8e8m0 up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cast {
    /// Result dtype.
    pub to: DType,
    /// Whether values beyond a small float's range become its largest value rather than infinity or NaN.
    pub saturate: bool,
}

macro_rules! ops {
    ($($(#[$doc:meta])* $family:ident,)*) => {
        /// An operator.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum Op {
            /// A row of the elementwise table.
            Elementwise(Elementwise),
            /// Dtype conversion.
            Cast(Cast),
            $($(#[$doc])* $family($family),)*
        }

        impl Op {
            /// The operator's name in the text form; unique.
            pub fn mnemonic(&self) -> &'static str {
                match self {
                    Op::Elementwise(e) => e.kind.row().name,
                    Op::Cast(_) => "cast",
                    $(Op::$family(x) => x.mnemonic(),)*
                }
            }

            /// Appends ` {name=value, ...}`, or nothing if the operator has no attributes.
            pub fn write_attrs(&self, out: &mut String) {
                let mut w = attr::AttrWriter::new(out);
                match self {
                    Op::Elementwise(e) => {
                        for (name, value) in e.kind.row().attrs.iter().zip(&e.attrs) {
                            w.field(name, value);
                        }
                    }
                    Op::Cast(c) => {
                        w.field("to", &c.to);
                        w.field("saturate", &c.saturate);
                    }
                    $(Op::$family(x) => x.write_attrs(&mut w),)*
                }
                w.finish();
            }

            /// Reads the attributes of the operator `mnemonic` at the cursor.
            pub fn parse(mnemonic: &str, c: &mut Cursor<'_>) -> Result<Op, AttrError> {
                if let Some(kind) = Ew::from_name(mnemonic) {
                    let mut r = attr::AttrReader::open(c)?;
                    let mut attrs = SmallVec::new();
                    for name in kind.row().attrs {
                        attrs.push(r.field(name)?);
                    }
                    r.close()?;
                    return Ok(Op::Elementwise(Elementwise { kind, attrs }));
                }
                if mnemonic == "cast" {
                    let mut r = attr::AttrReader::open(c)?;
                    let cast = Cast { to: r.field("to")?, saturate: r.field("saturate")? };
                    r.close()?;
                    return Ok(Op::Cast(cast));
                }
                $(if $family::MNEMONICS.contains(&mnemonic) {
                    return $family::parse(mnemonic, c).map(Op::$family);
                })*
                Err(c.error(format!("unknown operator `{mnemonic}`")))
            }

            /// Calls `visit` with every dim among the operator's attributes.
            pub fn visit_dims(&self, visit: &mut dyn FnMut(&Dim)) {
                match self {
                    Op::Elementwise(_) | Op::Cast(_) => {}
                    $(Op::$family(x) => x.visit_dims(visit),)*
                }
            }

            /// Calls `change` with every dim among the operator's attributes.
            pub fn dims_mut(&mut self, change: &mut dyn FnMut(&mut Dim)) {
                match self {
                    Op::Elementwise(_) | Op::Cast(_) => {}
                    $(Op::$family(x) => x.dims_mut(change),)*
                }
            }

            /// Every mnemonic.
            pub fn mnemonics() -> Vec<&'static str> {
                let mut all: Vec<_> = Ew::all().map(|e| e.row().name).collect();
                all.push("cast");
                $(all.extend_from_slice($family::MNEMONICS);)*
                all
            }
        }

        $(impl From<$family> for Op {
            fn from(x: $family) -> Op {
                Op::$family(x)
            }
        })*
    };
}

ops! {
    /// Constants and index sources.
    Source,
    /// Reductions over axes.
    Reduce,
    /// Sums of products of two tensors.
    Contract,
    /// Convolutions.
    Conv,
    /// Pooling.
    Window,
    /// Moves of elements whose result shape is known when the graph is built.
    Movement,
    /// Gathers and scatters.
    Index,
    /// Sorting, searching, scanning.
    Order,
    /// Quantization.
    Quant,
    /// Control flow and calls.
    Control,
    /// Operators that decompose into others.
    Composite,
    /// Sequences, optionals, state.
    Object,
    /// Movement-like operators whose result shape depends on data.
    Dynamic,
    /// Rare operators that run in the reference evaluator.
    Host,
}

impl Op {
    /// The elementwise operator `name` without attributes.
    ///
    /// # Panics
    /// If the table has no such row; for names that stand in our own source.
    pub fn ew(name: &str) -> Op {
        Op::ew_with(name, &[])
    }

    /// The elementwise operator `name` with attributes in the row's order.
    ///
    /// # Panics
    /// If the table has no such row or it has another number of attributes.
    pub fn ew_with(name: &str, attrs: &[f64]) -> Op {
        let kind = Ew::named(name);
        assert_eq!(kind.row().attrs.len(), attrs.len(), "attributes of `{name}`");
        Op::Elementwise(Elementwise { kind, attrs: attrs.iter().map(|&v| Float::new(v)).collect() })
    }

    /// Conversion to `to`, not saturating.
    pub fn cast(to: DType) -> Op {
        Op::Cast(Cast { to, saturate: false })
    }

    /// Whether the operator may neither be removed when unused, nor merged, nor reordered with others of its kind.
    pub fn has_effect(&self) -> bool {
        match self {
            Op::Host(h) => h.is_random() || h.may_fail_by_design(),
            Op::Control(c) => match c {
                // A called graph may hold effects; callers that know better inline it.
                Control::If { .. } | Control::Loop { .. } | Control::Call { .. } => true,
                Control::Fusion { .. } => false,
            },
            Op::Object(o) => match o {
                Object::StateRead { .. } | Object::StateAssign { .. } => true,
                // As of a call.
                Object::SequenceMap { .. } => true,
                Object::SequenceEmpty { .. }
                | Object::SequenceConstruct {}
                | Object::SequenceAt {}
                | Object::SequenceInsert { .. }
                | Object::SequenceErase { .. }
                | Object::SequenceLength {}
                | Object::SequenceSplit { .. }
                | Object::SequenceConcat { .. }
                | Object::OptionalNone { .. }
                | Object::OptionalSome {}
                | Object::OptionalHas {}
                | Object::OptionalGet {} => false,
            },
            Op::Elementwise(_)
            | Op::Cast(_)
            | Op::Source(_)
            | Op::Reduce(_)
            | Op::Contract(_)
            | Op::Conv(_)
            | Op::Window(_)
            | Op::Movement(_)
            | Op::Index(_)
            | Op::Order(_)
            | Op::Quant(_)
            | Op::Composite(_) => false,
            // It gives symbols their values.
            Op::Dynamic(d) => matches!(d, Dynamic::Sizes { .. }),
        }
    }

    /// The private graphs that the operator runs.
    pub fn graphs(&self) -> SmallVec<[crate::GraphId; 2]> {
        match self {
            Op::Control(c) => c.graphs(),
            Op::Object(Object::SequenceMap { body, .. }) => SmallVec::from_slice(&[*body]),
            _ => SmallVec::new(),
        }
    }
}
