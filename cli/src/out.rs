//! Printing that reports a closed pipe as an error instead of panicking.

/// As `println!`, with the error as a result.
macro_rules! outln {
    ($($arg:tt)*) => {{
        use std::io::Write;
        writeln!(std::io::stdout().lock(), $($arg)*)
    }};
}

/// As `print!`, with the error as a result.
macro_rules! out {
    ($($arg:tt)*) => {{
        use std::io::Write;
        write!(std::io::stdout().lock(), $($arg)*)
    }};
}

pub(crate) use {out, outln};
