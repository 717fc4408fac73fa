//! Golden files, conformance suites and whole-model tests of Kiln

pub mod agreement;
pub mod aten;
pub mod choices;
pub mod differential;
pub mod golden;
pub mod hostile;
pub mod huggingface;
pub mod random_graph;
pub mod random_kernel;
pub mod random_model;
pub mod untidy;
