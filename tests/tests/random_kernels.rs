//! Random kernels: the interpreter against every lowering that this machine executes.

use kiln_tests::agreement::{fault, lowerings};
use kiln_tests::choices::shrink;
use kiln_tests::random_kernel::{NUMBERS, families, grow};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn lowerings_agree_with_the_interpreter(numbers in prop::collection::vec(any::<u16>(), NUMBERS)) {
        let (_, cases) = grow(&numbers);
        for case in &cases {
            if let Some(reason) = fault(case, &lowerings()) {
                return Err(TestCaseError::fail(format!("{reason}\n{}", case.kernel)));
            }
        }
    }
}

#[test]
fn every_family_has_kernels() {
    let mut counts = vec![0; families().count()];
    for seed in 0..400 {
        let (family, cases) = grow(&kiln_tests::choices::numbers(seed, NUMBERS));
        counts[family] += cases.len();
    }
    for (name, count) in families().zip(counts) {
        assert!(count > 0, "{name}");
    }
}

#[test]
fn shrinking_keeps_what_fails() {
    let numbers: Vec<u16> = (0..200).collect();
    let small = shrink(&numbers, |numbers| numbers.contains(&117));
    assert_eq!(small.iter().filter(|&&n| n != 0).count(), 1);
    assert!(small.contains(&117) && small.len() < 20, "{small:?}");
}
