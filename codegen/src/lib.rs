//! Code generation of Kiln: kernel IR, schedules, lowerings, packing
