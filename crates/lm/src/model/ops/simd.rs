//! Elementwise functions and row reductions that the compiler vectorises. Inlined into functions compiled for several
//! instruction sets; every operation is exact IEEE arithmetic in a fixed order, so all of them give the same bits.

use half::bf16;

/// Lanes of a reduction: element j goes to lane j mod LANES, lanes are joined as a tree.
pub const LANES: usize = 16;

/// `e^x` by the polynomial of Cephes' `expf`, relative error below 2e-7; 0 below -87.3 and infinity above 88.7. NaN stays NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer
    let clamped = if x > 89.0 { 89.0 } else { x };
    let clamped = if clamped < -88.0 { -88.0 } else { clamped };
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    // ln 2 in two parts, so that the remainder is exact to the last bit.
    let r = n.mul_add(-0.693_145_75, clamped);
    let r = n.mul_add(-1.428_606_8e-6, r);
    let p = 1.987_569_1e-4f32;
    let p = p.mul_add(r, 1.398_199_9e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_6e-1);
    let p = p.mul_add(r, 0.5);
    let p = (p * r).mul_add(r, r) + 1.0;
    // 2^n in two factors: n reaches 128.
    let bits = shifted.to_bits() as i32 - MAGIC.to_bits() as i32;
    let half = bits >> 1;
    let scale = |e: i32| f32::from_bits(((e + 127) << 23) as u32);
    let value = p * scale(half) * scale(bits - half);
    if x < -87.3 { 0.0 } else { value }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Hyperbolic tangent: near 0 the polynomial of Cephes' `tanhf`, relative error below 2e-7 everywhere.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let z = x * x;
    let p = -5.704_988_7e-3f32;
    let p = p.mul_add(z, 2.063_909e-2);
    let p = p.mul_add(z, -5.373_971_6e-2);
    let p = p.mul_add(z, 1.333_144_2e-1);
    let p = p.mul_add(z, -3.333_328e-1);
    let near = (p * z).mul_add(x, x);
    let size = if x < 0.0 { -x } else { x };
    let far = 1.0 - 2.0 / (exp(2.0 * size) + 1.0);
    let far = if x < 0.0 { -far } else { far };
    if size < 0.625 { near } else { far }
}

/// Joins the lanes of a sum, always in the same order.
#[inline(always)]
pub fn join(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Sum of `f(x[j], y[j])` by lanes.
#[inline(always)]
pub fn sum2(x: &[f32], y: &[f32], f: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (x_blocks, y_blocks) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    let (x_tail, y_tail) = (x_blocks.remainder(), y_blocks.remainder());
    for (x, y) in x_blocks.zip(y_blocks) {
        for i in 0..LANES {
            lanes[i] = f(x[i], y[i], lanes[i]);
        }
    }
    for (i, (x, y)) in x_tail.iter().zip(y_tail).enumerate() {
        lanes[i] = f(*x, *y, lanes[i]);
    }
    join(lanes)
}

/// Sum of products.
#[inline(always)]
pub fn dot(x: &[f32], y: &[f32]) -> f32 {
    sum2(x, y, |x, y, sum| x.mul_add(y, sum))
}

/// The largest element; minus infinity of none.
#[inline(always)]
pub fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let blocks = x.chunks_exact(LANES);
    let tail = blocks.remainder();
    for block in blocks {
        for i in 0..LANES {
            lanes[i] = if block[i] > lanes[i] { block[i] } else { lanes[i] };
        }
    }
    let mut last = [f32::NEG_INFINITY; LANES];
    last[..tail.len()].copy_from_slice(tail);
    for i in 0..LANES {
        lanes[i] = if last[i] > lanes[i] { last[i] } else { lanes[i] };
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = if lanes[i + width] > lanes[i] { lanes[i + width] } else { lanes[i] };
        }
        width /= 2;
    }
    lanes[0]
}

/// Compiles a function for every instruction set, and picks one at run time.
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[cfg_attr(
            target_arch = "x86_64",
            expect(unsafe_code, reason = "calls functions compiled for features found at run time")
        )]
        $vis fn $name($($arg: $type),*) $(-> $ret)? {
            #[inline(always)]
            fn portable($($arg: $type),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                use $crate::model::ops::isa::Isa;
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($arg: $type),*) $(-> $ret)? { portable($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $type),*) $(-> $ret)? { portable($($arg),*) }
                match Isa::current() {
                    // SAFETY: the processor has what `current` names.
                    Isa::Avx512 | Isa::Bf16 | Isa::Amx => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    Isa::Avx2 => return unsafe { avx2($($arg),*) },
                    Isa::Portable => {}
                }
            }
            portable($($arg),*)
        }
    };
}
pub(crate) use vectorised;

vectorised! {
    /// Turns scores into probabilities times their sum: `x[j] = e^(scale * (x[j] - max))`; returns the sum.
    pub fn softmax_numerators(x: &mut [f32], scale: f32) -> f32 {
        let max = max(x) * scale;
        let mut lanes = [0.0f32; LANES];
        let mut blocks = x.chunks_exact_mut(LANES);
        for block in &mut blocks {
            for i in 0..LANES {
                block[i] = exp(block[i].mul_add(scale, -max));
                lanes[i] += block[i];
            }
        }
        // The rest as one more whole block, filled up with what adds nothing: as vectors, not one by one.
        let rest = blocks.into_remainder();
        let mut last = [f32::NEG_INFINITY; LANES];
        last[..rest.len()].copy_from_slice(rest);
        for i in 0..LANES {
            last[i] = exp(last[i].mul_add(scale, -max));
            lanes[i] += last[i];
        }
        rest.copy_from_slice(&last[..rest.len()]);
        join(lanes)
    }
}

vectorised! {
    /// Numbers in bf16 as f32.
    pub fn widen(x: &[bf16], wide: &mut [f32]) {
        for (x, wide) in x.iter().zip(wide) {
            *wide = f32::from_bits(u32::from(x.to_bits()) << 16);
        }
    }
}

vectorised! {
    /// Bounds numbers: `x = cap * tanh(inner * x)`.
    pub fn soft_cap(x: &mut [f32], inner: f32, cap: f32) {
        for x in x {
            *x = cap * tanh(inner * *x);
        }
    }
}

vectorised! {
    /// Derivatives of numbers that [`soft_cap`] has bounded: `1 - (x / cap)^2`.
    pub fn soft_cap_slopes(capped: &[f32], cap: f32, slopes: &mut [f32]) {
        for (x, slope) in capped.iter().zip(slopes) {
            let t = x / cap;
            *slope = 1.0 - t * t;
        }
    }
}

vectorised! {
    /// Sum of all elements, by lanes: as fast as memory gives them.
    pub fn sum(x: &[f32]) -> f32 {
        let mut lanes = [0.0f32; 4 * LANES];
        for block in x.chunks_exact(4 * LANES) {
            for (lane, x) in lanes.iter_mut().zip(block) {
                *lane += x;
            }
        }
        lanes.iter().sum()
    }
}

vectorised! {
    /// `x *= y`, elementwise.
    pub fn multiply(x: &mut [f32], y: &[f32]) {
        for (x, y) in x.iter_mut().zip(y) {
            *x *= y;
        }
    }
}

vectorised! {
    /// `x *= by`.
    pub fn scale(x: &mut [f32], by: f32) {
        for x in x {
            *x *= by;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_everywhere() {
        let mut worst = 0.0f64;
        for i in -8700..=8860 {
            let x = i as f32 * 0.01 + 0.003;
            let want = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - want).abs() / want);
        }
        assert!(worst < 2e-7, "worst relative error {worst}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-1000.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(1000.0), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_is_close_everywhere() {
        let mut worst = 0.0f64;
        for i in -20_000..=20_000 {
            let x = i as f32 * 1e-3 + 1e-5;
            let want = f64::from(x).tanh();
            worst = worst.max((f64::from(tanh(x)) - want).abs() / want.abs());
        }
        assert!(worst < 2e-7, "worst relative error {worst}");
        assert_eq!((tanh(0.0), tanh(1e30), tanh(f32::NEG_INFINITY)), (0.0, 1.0, -1.0));
        assert!(tanh(f32::NAN).is_nan());
    }

    #[test]
    fn trailing_zeros_do_not_change_a_reduction() {
        let x: Vec<f32> = (0..37).map(|i| (i as f32 * 0.7).sin()).collect();
        let mut padded = x.clone();
        padded.resize(64, 0.0);
        assert_eq!(dot(&x, &x).to_bits(), dot(&padded, &padded).to_bits());
        assert_eq!(max(&x), x.iter().copied().fold(f32::MIN, f32::max));
    }
}
