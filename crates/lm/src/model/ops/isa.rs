//! Which instructions the kernels use: the best that the processor has, or fewer where `MINDGAP_ISA` says so.

use mindgap_base::error::{Error, Result};
use std::sync::OnceLock;

/// Instruction sets that kernels are compiled for; each holds those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// What the compiler takes for granted of this architecture; on 64-bit ARM that is NEON.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// Dot products of small numbers: AVX512-BF16 and AVX512-VNNI.
    Bf16,
    /// Products of tiles of small numbers: AMX-BF16 and AMX-INT8, where Linux lets the process use them.
    Amx,
}

/// The environment variable that names the instruction set to use.
pub const VARIABLE: &str = "MINDGAP_ISA";

impl Isa {
    pub const ALL: [Isa; 5] = [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Bf16, Isa::Amx];

    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Bf16 => "bf16",
            Isa::Amx => "amx",
        }
    }

    /// What the kernels of this process use. Where the variable is wrong it counts as absent; [`Isa::from_env`] says what is wrong.
    #[inline]
    pub fn current() -> Isa {
        static CURRENT: OnceLock<Isa> = OnceLock::new();
        *CURRENT.get_or_init(|| Isa::from_env().unwrap_or_else(|_| Isa::best()))
    }

    /// The best that this processor has.
    pub fn best() -> Isa {
        Isa::ALL.into_iter().rev().find(|isa| isa.is_here()).unwrap_or(Isa::Portable)
    }

    /// The processor has it.
    pub fn is_here(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            use std::is_x86_feature_detected as has;
            match self {
                Isa::Portable => true,
                Isa::Avx2 => has!("avx2") && has!("fma"),
                Isa::Avx512 => {
                    Isa::Avx2.is_here() && has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl")
                }
                Isa::Bf16 => Isa::Avx512.is_here() && has!("avx512bf16") && has!("avx512vnni"),
                Isa::Amx => Isa::Bf16.is_here() && has_tiles(),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Isa::Portable
        }
    }

    /// The set that the environment asks for, or the best. Errors: an unknown name, a set that the processor lacks.
    pub fn from_env() -> Result<Isa> {
        match std::env::var(VARIABLE) {
            Ok(name) => Isa::named(&name),
            Err(_) => Ok(Isa::best()),
        }
    }

    fn named(name: &str) -> Result<Isa> {
        let here: Vec<&str> = Isa::ALL.into_iter().filter(|isa| isa.is_here()).map(Isa::name).collect();
        let hint = format!("this processor has `{}`", here.join("`, `"));
        match Isa::ALL.into_iter().find(|isa| isa.name() == name) {
            Some(isa) if isa.is_here() => Ok(isa),
            Some(_) => Err(Error::environment(format!("{VARIABLE} asks for `{name}`")).hint(hint)),
            None => Err(Error::usage(format!("{VARIABLE} is `{name}`, which names no instruction set")).hint(hint)),
        }
    }
}

/// The processor multiplies tiles, and the kernel has given this process room for them; it is asked once.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn has_tiles() -> bool {
    use std::arch::x86_64::__cpuid_count;
    /// AMX-BF16, AMX-TILE and AMX-INT8.
    const BITS: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    static HERE: OnceLock<bool> = OnceLock::new();
    *HERE.get_or_init(|| {
        // SAFETY: every 64-bit processor has this instruction.
        #[allow(unused_unsafe, reason = "newer versions of Rust call it safe")]
        #[expect(unsafe_code, reason = "the library has no stable name for these features")]
        let features = unsafe { __cpuid_count(7, 0) }.edx;
        features & BITS == BITS && tiles_are_granted()
    })
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn has_tiles() -> bool {
    false
}

/// Asks Linux for the right to use tile registers, which it gives to the whole process.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[expect(unsafe_code, reason = "a system call")]
fn tiles_are_granted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const TILE_DATA: u64 = 18;
    let result: i64;
    // SAFETY: this call takes two numbers and touches no memory of the process.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") TILE_DATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_holds_those_before_it() {
        let here = Isa::ALL.map(Isa::is_here);
        assert!(Isa::ALL.is_sorted() && here[0] && here.is_sorted_by_key(|here| !here), "{here:?}");
    }

    #[test]
    fn names_are_checked() {
        assert_eq!(Isa::named("portable").unwrap(), Isa::Portable);
        assert_eq!(Isa::named(Isa::best().name()).unwrap(), Isa::best());
        assert!(Isa::named("avx9").unwrap_err().what().contains("`avx9`"));
        if let Some(missing) = Isa::ALL.into_iter().find(|isa| !isa.is_here()) {
            assert!(Isa::named(missing.name()).unwrap_err().remedy().unwrap().contains("`portable`"));
        }
    }
}
