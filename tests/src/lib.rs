//! Golden files, conformance suites and whole-model tests of Kiln
