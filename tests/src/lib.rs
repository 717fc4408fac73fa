//! Golden files, conformance suites and whole-model tests of Kiln

pub mod golden;
pub mod hostile;
pub mod random_graph;
