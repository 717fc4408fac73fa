//! Sequences, optionals, states.

use kiln_ir::eval::Evaluator;
use kiln_ir::op::Object;
use kiln_ir::{DType, Datum, Module, StateDecl, Tensor, Type};

use super::i64s;

fn list(values: &[i64]) -> Datum {
    let items = values.iter().map(|&v| Datum::Tensor(Tensor::scalar(v))).collect();
    Datum::Sequence { element: Type::unranked(DType::I64), items }
}

fn at(i: i64) -> Datum {
    Tensor::scalar(i).into()
}

fn run(op: Object, operands: &[Datum]) -> Result<Datum, String> {
    let module = Module::new();
    let results = Evaluator::new(&module).eval_op(&op.into(), operands, &[]).map_err(|e| e.to_string())?;
    Ok(results.into_iter().next().unwrap())
}

#[test]
fn sequences_grow_and_shrink() {
    let s = list(&[1, 2, 3]);
    assert_eq!(run(Object::SequenceConstruct {}, &[at(1), at(2), at(3)]), Ok(s.clone()));
    assert_eq!(run(Object::SequenceAt {}, &[s.clone(), at(-1)]), Ok(at(3)));
    assert_eq!(run(Object::SequenceInsert { at: false }, &[s.clone(), at(4)]), Ok(list(&[1, 2, 3, 4])));
    assert_eq!(run(Object::SequenceInsert { at: true }, &[s.clone(), at(4), at(3)]), Ok(list(&[1, 2, 3, 4])));
    assert_eq!(
        run(Object::SequenceInsert { at: true }, &[s.clone(), at(4), at(-3)]),
        Ok(list(&[4, 1, 2, 3]))
    );
    assert_eq!(run(Object::SequenceErase { at: false }, &[s.clone()]), Ok(list(&[1, 2])));
    assert_eq!(run(Object::SequenceErase { at: true }, &[s.clone(), at(0)]), Ok(list(&[2, 3])));
    assert_eq!(run(Object::SequenceLength {}, &[s.clone()]), Ok(at(3)));
    assert!(run(Object::SequenceAt {}, &[s.clone(), at(3)]).unwrap_err().contains("index 3"));
    assert!(run(Object::SequenceErase { at: false }, &[list(&[])]).unwrap_err().contains("out of range"));
    assert!(
        run(Object::SequenceInsert { at: true }, &[s.clone(), at(4), at(4)]).unwrap_err().contains("index 4")
    );
    let other = Tensor::scalar(1.0f32).into();
    assert!(run(Object::SequenceInsert { at: false }, &[s, other]).unwrap_err().contains("f32"));
}

#[test]
fn sequences_split_and_join() {
    let x: Datum = i64s(&[2, 3], &[1, 2, 3, 4, 5, 6]).into();
    let tensors = |d: Datum| match d {
        Datum::Sequence { items, .. } => {
            items.into_iter().map(|i| i.into_tensor().unwrap()).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    let op = |split, keepdims| Object::SequenceSplit { axis: 1, split, keepdims };
    let chunks = run(op(true, true), &[x.clone(), at(2)]).unwrap();
    assert_eq!(tensors(chunks.clone()), [i64s(&[2, 2], &[1, 2, 4, 5]), i64s(&[2, 1], &[3, 6])]);
    let sized = run(op(true, true), &[x.clone(), Tensor::ints(&[1, 2]).into()]).unwrap();
    assert_eq!(tensors(sized)[1], i64s(&[2, 2], &[2, 3, 5, 6]));
    let single = run(op(false, false), &[x.clone()]).unwrap();
    assert_eq!(tensors(single.clone())[2], Tensor::ints(&[3, 6]));
    assert_eq!(run(Object::SequenceConcat { axis: -1, new_axis: false }, &[chunks]), Ok(x.clone()));
    assert_eq!(run(Object::SequenceConcat { axis: 1, new_axis: true }, &[single]), Ok(x.clone()));
    assert!(run(op(true, true), &[x.clone(), at(0)]).unwrap_err().contains("not positive"));
    assert!(run(op(true, true), &[x, Tensor::ints(&[1, 1]).into()]).unwrap_err().contains("[1, 1]"));
}

#[test]
fn optionals_may_be_absent() {
    let none = run(Object::OptionalNone { ty: Type::unranked(DType::I64) }, &[]).unwrap();
    let some = run(Object::OptionalSome {}, &[at(5)]).unwrap();
    let truth = |b| Datum::Tensor(Tensor::from_bools(&[], &[b]).unwrap());
    assert_eq!(run(Object::OptionalHas {}, &[none.clone()]), Ok(truth(false)));
    assert_eq!(run(Object::OptionalHas {}, &[some.clone()]), Ok(truth(true)));
    assert_eq!(run(Object::OptionalGet {}, &[some]), Ok(at(5)));
    assert!(run(Object::OptionalGet {}, &[none]).unwrap_err().contains("absent"));
}

#[test]
fn states_persist_between_runs() {
    let mut module = Module::new();
    module.add_state(StateDecl { name: "count".into(), init: Tensor::scalar(1i64) });
    let mut ev = Evaluator::new(&module);
    let read = Object::StateRead { name: "count".into(), ty: Type::fixed(DType::I64, &[]) }.into();
    assert_eq!(ev.eval_op(&read, &[], &[]).unwrap(), [at(1)]);
    let assign = Object::StateAssign { name: "count".into() }.into();
    assert_eq!(ev.eval_op(&assign, &[at(9)], &[]).unwrap(), []);
    assert_eq!(ev.eval_op(&read, &[], &[]).unwrap(), [at(9)]);
    assert_eq!(ev.states()["count"], Tensor::scalar(9i64));
    assert!(ev.eval_op(&assign, &[Tensor::scalar(1.0f32).into()], &[]).is_err());
    let missing = Object::StateAssign { name: "other".into() }.into();
    assert!(ev.eval_op(&missing, &[at(1)], &[]).unwrap_err().to_string().contains("`other`"));
}
