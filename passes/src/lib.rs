//! Graph to graph passes of Kiln: one table of passes, one rewrite engine
