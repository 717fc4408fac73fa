//! The parser, on the forms that the serializer writes.

use super::parser::parse;
use super::print::print;

fn reprinted(text: &str) -> String {
    let mut left = 1 << 20;
    match parse(text, 0, &mut left) {
        Ok(body) => print(&body),
        Err((at, fault)) => panic!("byte {at}: {fault:?}"),
    }
}
