//! Text form.
pub mod lexer;
