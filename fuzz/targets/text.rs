//! The text form of graph IR: any text gives a module that prints as it parses, or an error.
#![no_main]

use kiln_ir::text::{parse_module, print_module};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(module) = parse_module(text, &Default::default()) {
        let (printed, resources) = print_module(&module);
        let again = parse_module(&printed, &resources).expect("what is printed parses");
        assert_eq!(print_module(&again).0, printed);
    }
});
