//! Damaged and foreign archives.
