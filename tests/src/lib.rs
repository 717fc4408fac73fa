//! Golden files, conformance suites and whole-model tests of Kiln

pub mod golden;
pub mod random_graph;
