//! Properties of random modules: they verify, and the text form keeps them.

use kiln_ir::text::{TextOptions, parse_module, print_module, print_module_with};
use kiln_ir::verify;
use proptest::prelude::*;

#[path = "../../tests/src/choices.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod choices;
#[path = "../../tests/src/random_graph.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod random_graph;

use random_graph::{Growth, Variety, modules};

const ANY: Growth = Growth { variety: Variety::Any, symbolic: true, operators: 24 };
const SMOOTH: Growth = Growth { variety: Variety::Smooth, symbolic: true, operators: 24 };

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_builds_verifies(module in prop_oneof![modules(ANY), modules(SMOOTH)]) {
        let errors = verify(&module).err().unwrap_or_default();
        prop_assert!(errors.is_empty(), "{errors:?}\n{}", print_module(&module).0);
    }

    #[test]
    fn printing_and_parsing_keep_a_module(module in modules(ANY)) {
        let (text, resources) = print_module(&module);
        let back = parse_module(&text, &resources);
        prop_assert!(back.is_ok(), "{}\n{text}", back.err().map(|e| e.to_string()).unwrap_or_default());
        let back = back.unwrap();
        let (again, more) = print_module(&back);
        prop_assert_eq!(&again, &text);
        prop_assert_eq!(more.0, resources.0);
        prop_assert!(verify(&back).is_ok());
        // What is known of values is part of the module, too.
        for ((_, a), (_, b)) in module.graphs().zip(back.graphs()) {
            for ((_, x), (_, y)) in a.scheduled().zip(b.scheduled()) {
                for (&v, &w) in x.results.iter().zip(&y.results) {
                    prop_assert_eq!(a.value(v).known(), b.value(w).known());
                }
            }
        }
    }

    #[test]
    fn a_damaged_text_is_refused_or_read_but_never_panics(
        module in modules(ANY), at in any::<prop::sample::Index>(), with in "[-%a-z0-9*?(){}\\[\\],:=@_\" ]{0,3}",
    ) {
        let options = TextOptions { inline_elements: usize::MAX, ..TextOptions::default() };
        let (mut text, resources) = print_module_with(&module, options);
        let places: Vec<usize> = text.char_indices().map(|(i, _)| i).collect();
        let at = *at.get(&places);
        let end = text.ceil_char_boundary(at + with.len());
        text.replace_range(at..end, &with);
        if let Ok(module) = parse_module(&text, &resources) {
            prop_assert!(verify(&module).is_ok(), "{text}");
        }
        let _ = kiln_ir::text::parse_module_unchecked(&text, &resources).map(|m| verify(&m));
    }
}
