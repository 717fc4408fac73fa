//! Benches of Kiln, peers side by side
