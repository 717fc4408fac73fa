//! Runtime of Kiln: artifact format, memory plan, threads, sessions. No compiler inside
