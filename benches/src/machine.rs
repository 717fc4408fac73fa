//! The machine, and what the environment asks of a bench.

use std::time::Duration;

use criterion::Criterion;
use kiln_codegen::lower::clif::{Compiler, LowerError};
use kiln_runtime::cpu::Tier;
use kiln_runtime::peak::{VectorWidth, dot_gops, fma_gflops};

use crate::kernel::Products;

/// The instruction set that a bench runs on.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// The tier.
    pub tier: Tier,
    /// Whether only 128-bit vectors are used.
    pub portable: bool,
}

impl Machine {
    /// What `KILN_TIER` and `KILN_PORTABLE` name, or else this machine; `None` where that does not run here.
    pub fn from_environment() -> Option<Machine> {
        let wanted = std::env::var("KILN_TIER").ok().and_then(|name| Tier::from_name(&name));
        let tier = wanted.or_else(Tier::native).filter(|tier| tier.is_supported());
        if tier.is_none() {
            println!("no tier with code runs here");
        }
        Some(Machine { tier: tier?, portable: std::env::var_os("KILN_PORTABLE").is_some() })
    }

    /// A compiler of kernels.
    pub fn compiler(self) -> Result<Compiler, LowerError> {
        if self.portable { Compiler::portable(self.tier) } else { Compiler::new(self.tier) }
    }

    /// `f32` lanes of a vector.
    pub fn lanes(self) -> u32 {
        match self.width() {
            VectorWidth::W128 => 4,
            VectorWidth::W256 => 8,
            VectorWidth::W512 => 16,
        }
    }

    /// Whether products of bytes are those of tile registers.
    pub fn has_tiles(self) -> bool {
        self.tier == Tier::X86V4Amx
    }

    /// GFLOP/s of fused multiply-adds on one core, measured now; not a number where there are none.
    pub fn peak(self) -> f64 {
        fma_gflops(self.width()).unwrap_or(f64::NAN)
    }

    /// The same of what a kernel multiplies: of bytes, operations of dot products of four.
    pub fn peak_of(self, products: Products) -> f64 {
        match products {
            Products::Floats => self.peak(),
            Products::Bytes => dot_gops(self.width()).unwrap_or(f64::NAN),
        }
    }

    fn width(self) -> VectorWidth {
        match self.tier {
            _ if self.portable => VectorWidth::W128,
            Tier::X86V4 | Tier::X86V4Vnni | Tier::X86V4Amx => VectorWidth::W512,
            Tier::X86V3 | Tier::X86V3Vnni => VectorWidth::W256,
            Tier::X86V1 | Tier::X86V2 | Tier::Aarch64 => VectorWidth::W128,
        }
    }
}

/// Whether `KILN_CASE` leaves the case in.
pub fn is_wanted(case: &str) -> bool {
    std::env::var("KILN_CASE").is_ok_and(|only| case.contains(&only))
        || std::env::var_os("KILN_CASE").is_none()
}

/// Criterion with short measurements, unless the command line says otherwise.
pub fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600))
        .configure_from_args()
}
