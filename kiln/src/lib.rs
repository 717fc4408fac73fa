//! Kiln: load, optimize, compile and run neural networks
