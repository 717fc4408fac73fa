//! Mapped files and executable memory. The mapping of code is never writable and executable at once.

use std::fs::File;
use std::io;

use memmap2::{Mmap, MmapMut, MmapOptions};

/// Machine code that can be executed and not written.
#[derive(Debug)]
pub struct CodeMemory(Option<Mmap>);

impl CodeMemory {
    /// Copies `code` into fresh pages, then makes them executable.
    pub fn from_bytes(code: &[u8]) -> io::Result<Self> {
        if code.is_empty() {
            return Ok(CodeMemory(None));
        }
        let mut pages = MmapMut::map_anon(code.len())?;
        pages[..code.len()].copy_from_slice(code);
        let pages = pages.make_exec()?;
        flush_instruction_cache(&pages);
        Ok(CodeMemory(Some(pages)))
    }

    /// Maps `len` bytes of `file` from `offset` on, readable and executable; copies them where the file's mount forbids
    /// to execute.
    ///
    /// The pages are private, but follow the file until they are first read: whoever may write the file may change
    /// the code, as with any shared library.
    pub fn map(file: &File, offset: u64, len: usize) -> io::Result<Self> {
        if len == 0 {
            return Ok(CodeMemory(None));
        }
        // SAFETY: the pages are only read and executed; that the file stays as it is, is the caller's responsibility
        // as documented.
        match unsafe { MmapOptions::new().offset(offset).len(len).map_exec(file) } {
            Ok(pages) => Ok(CodeMemory(Some(pages))),
            Err(refused) if refused.kind() == io::ErrorKind::PermissionDenied => {
                // SAFETY: as above; the pages are only read, and only here.
                let pages = unsafe { MmapOptions::new().offset(offset).len(len).map(file)? };
                CodeMemory::from_bytes(&pages)
            }
            Err(error) => Err(error),
        }
    }

    /// The code.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or(&[])
    }
}

/// A whole file, mapped read-only.
///
/// Its bytes change, or reading them faults, if the file is changed or shortened in place; writers of artifacts
/// replace files instead.
#[derive(Debug)]
pub struct MappedFile(Option<Mmap>);

impl MappedFile {
    /// Maps `file`.
    pub fn open(file: &File) -> io::Result<Self> {
        if file.metadata()?.len() == 0 {
            return Ok(MappedFile(None));
        }
        // SAFETY: the mapping is read-only; that the file stays as it is, is the caller's responsibility as
        // documented.
        let map = unsafe { MmapOptions::new().map(file)? };
        Ok(MappedFile(Some(map)))
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or(&[])
    }
}

/// Makes freshly written code visible to instruction fetch; x86 keeps the two coherent by itself.
#[cfg(not(target_arch = "aarch64"))]
fn flush_instruction_cache(_code: &[u8]) {}

/// Makes freshly written code visible to instruction fetch (Arm ARM, B2.4.4 "Concurrent modification and execution of
/// instructions").
#[cfg(target_arch = "aarch64")]
fn flush_instruction_cache(code: &[u8]) {
    // The smallest line size that the architecture allows is safe on every core.
    const LINE: usize = 16;
    let range = code.as_ptr_range();
    let (start, end) = (range.start as usize & !(LINE - 1), range.end as usize);
    // SAFETY: cache maintenance by address on mapped, readable memory changes no data.
    unsafe {
        for line in (start..end).step_by(LINE) {
            std::arch::asm!("dc cvau, {}", in(reg) line);
        }
        std::arch::asm!("dsb ish");
        for line in (start..end).step_by(LINE) {
            std::arch::asm!("ic ivau, {}", in(reg) line);
        }
        std::arch::asm!("dsb ish", "isb");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_code_and_files_map_to_nothing() {
        assert!(CodeMemory::from_bytes(&[]).unwrap().bytes().is_empty());
        assert_eq!(CodeMemory::from_bytes(&[0xc3]).unwrap().bytes()[0], 0xc3);
    }

    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    #[test]
    fn code_pages_are_executable_and_not_writable() {
        let code = CodeMemory::from_bytes(&[0xc3; 100]).unwrap();
        let address = code.bytes().as_ptr() as usize;
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let line = maps
            .lines()
            .find(|line| {
                let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
                let parse = |s| usize::from_str_radix(s, 16).unwrap();
                (parse(start)..parse(end)).contains(&address)
            })
            .unwrap();
        assert!(line.contains(" r-xp "), "{line}");
    }
}
