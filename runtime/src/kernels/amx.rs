//! The matrix unit of Intel's Advanced Matrix Extensions: products of tiles of pairs of bf16, sums in f32.
//!
//! A *tile* is [`TILE`] rows of as many 32-bit words (Intel 64 and IA-32 Architectures Software Developer's Manual, volume
//! 1, chapter 18). A left tile has a row of the matrix in each row, two neighbouring elements of it in a word; in a right
//! tile a row has, for two neighbouring rows of the matrix, a pair in each column.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::sync::OnceLock;

/// Rows of a tile, and words in each.
pub(crate) const TILE: usize = 16;

/// Elements along the summed dimension that one instruction takes: the words of a tile's row, two each.
pub(crate) const STEP: usize = 2 * TILE;

/// Rows and columns of what [`multiply`] computes at once: two tiles each way.
pub(crate) const BLOCK: usize = 2 * TILE;

/// A row of a tile.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [u32; TILE]);

impl Line {
    pub(crate) const ZERO: Line = Line([0; TILE]);
}

/// Whether this process may use the unit: the processor has it, with products of bf16, and the system lets the process
/// use its registers, which it must be asked for once (`Documentation/arch/x86/xstate.rst` of Linux).
pub(crate) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| has_instructions() && may_use_registers())
}

fn has_instructions() -> bool {
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    let leaves = __cpuid(0).eax;
    leaves >= 7 && __cpuid_count(7, 0).edx & (AMX_BF16 | AMX_TILE) == AMX_BF16 | AMX_TILE
}

#[cfg(target_os = "linux")]
fn may_use_registers() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: asks for a permission; no memory is involved.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn may_use_registers() -> bool {
    false
}

/// The eight tile registers of this thread, each configured as 16 rows of 64 bytes; released when dropped.
pub(crate) struct Tiles(());

impl Tiles {
    /// Configures the registers.
    ///
    /// # Panics
    /// If the unit is not available.
    #[inline(always)]
    pub(crate) fn new() -> Tiles {
        #[repr(C, align(64))]
        struct Config([u8; 64]);
        assert!(is_available(), "no AMX");
        // Palette 1; from byte 16 on the bytes in a row of each tile, two bytes each, from byte 48 on its rows.
        let mut config = Config([0; 64]);
        config.0[0] = 1;
        for tile in 0..8 {
            config.0[16 + 2 * tile] = 64;
            config.0[48 + tile] = 16;
        }
        // SAFETY: the unit is there, the configuration valid. The registers are this thread's own, and what else uses them
        // (oneDNN) configures them anew.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) };
        Tiles(())
    }
}

impl Drop for Tiles {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: the unit is there, or there would be no value.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// Where the tiles of an operand lie: those of the upper (or left) half of a block from `first[0]` on, those of the other
/// from `first[1]`. The next step's tile is `step` bytes further, the next row `row` bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operand {
    pub(crate) first: [*const u8; 2],
    pub(crate) step: usize,
    pub(crate) row: usize,
}

/// `c = a b`, or `c += a b` with `add`: a block of [`BLOCK`] by [`BLOCK`] f32 whose rows are `c_row` elements apart, summed
/// over `steps` steps of [`STEP`] elements.
///
/// # Safety
/// For each step both tiles of `a` and of `b` can be read, and all rows of `c` read and written. There are [`Tiles`] on this
/// thread.
#[inline(always)]
pub(crate) unsafe fn multiply(steps: usize, a: Operand, b: Operand, c: *mut f32, c_row: usize, add: bool) {
    // SAFETY: the caller's. Two tiles of each operand make four products; loads stand between them so that the unit does
    // not wait for memory.
    unsafe {
        asm!(
            "test {add:e}, {add:e}",
            "jz 2f",
            "tileloadd tmm0, [{c} + {c_row}]",
            "tileloadd tmm1, [{c} + {c_row} + 64]",
            "tileloadd tmm2, [{c_low} + {c_row}]",
            "tileloadd tmm3, [{c_low} + {c_row} + 64]",
            "jmp 3f",
            "2:",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "3:",
            "test {steps}, {steps}",
            "jz 5f",
            "4:",
            "tileloadd tmm4, [{a0} + {a_row}]",
            "tileloadd tmm6, [{b0} + {b_row}]",
            "tileloadd tmm5, [{a1} + {a_row}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b1} + {b_row}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a0}, {a_step}",
            "add {a1}, {a_step}",
            "add {b0}, {b_step}",
            "add {b1}, {b_step}",
            "dec {steps}",
            "jnz 4b",
            "5:",
            "tilestored [{c} + {c_row}], tmm0",
            "tilestored [{c} + {c_row} + 64], tmm1",
            "tilestored [{c_low} + {c_row}], tmm2",
            "tilestored [{c_low} + {c_row} + 64], tmm3",
            add = in(reg) u32::from(add),
            steps = inout(reg) steps => _,
            a0 = inout(reg) a.first[0] => _,
            a1 = inout(reg) a.first[1] => _,
            a_step = in(reg) a.step,
            a_row = in(reg) a.row,
            b0 = inout(reg) b.first[0] => _,
            b1 = inout(reg) b.first[1] => _,
            b_step = in(reg) b.step,
            b_row = in(reg) b.row,
            c = in(reg) c,
            c_low = in(reg) c.add(TILE * c_row),
            c_row = in(reg) c_row * size_of::<f32>(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack)
        );
    }
}
