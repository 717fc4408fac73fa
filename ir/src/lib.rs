//! Graph IR of Kiln: dtypes, symbolic dims, ops, builder, verifier, text form, reference evaluator
