//! Counter-based randomness: a number is a pure function of where it is used, never of what was drawn before.
//!
//! Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011), keyed by a blake3 hash of the
//! coordinates (seed, purpose, problem, sample). A sample therefore does not depend on its batch, its neighbours, the
//! number of threads or where a run was interrupted.

/// One stream of random numbers, addressed by position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    key: [u32; 2],
    nonce: [u32; 2],
}

impl Stream {
    /// The stream at these coordinates. Order and boundaries of `coordinates` matter; each is length-prefixed.
    pub fn at(seed: u64, coordinates: &[&[u8]]) -> Stream {
        let mut hasher = blake3::Hasher::new_derive_key("mindgap 2026 rng stream v1");
        hasher.update(&seed.to_le_bytes());
        for part in coordinates {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let hash = hasher.finalize();
        let word = |i: usize| u32::from_le_bytes(hash.as_bytes()[4 * i..4 * i + 4].try_into().expect("4 bytes"));
        Stream { key: [word(0), word(1)], nonce: [word(2), word(3)] }
    }

    /// 128 random bits at `position`.
    pub fn words(&self, position: u64) -> [u32; 4] {
        philox4x32_10([position as u32, (position >> 32) as u32, self.nonce[0], self.nonce[1]], self.key)
    }

    /// 64 random bits at `position`: the first two of its words.
    pub fn bits(&self, position: u64) -> u64 {
        let [low, high, ..] = self.words(position);
        u64::from(low) | u64::from(high) << 32
    }

    /// Uniform in [0, 1) with 53 bits, at `position`.
    pub fn uniform(&self, position: u64) -> f64 {
        (self.bits(position) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// The stream read from its start, for code that draws in sequence.
    pub fn cursor(self) -> Cursor {
        Cursor { stream: self, position: 0 }
    }
}

/// Reads a stream one number after the other.
#[derive(Clone, Debug)]
pub struct Cursor {
    stream: Stream,
    position: u64,
}

impl Cursor {
    pub fn bits(&mut self) -> u64 {
        self.position += 1;
        self.stream.bits(self.position - 1)
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        self.position += 1;
        self.stream.uniform(self.position - 1)
    }

    /// Uniform in 0..n, without bias. Panics if `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "cannot draw from an empty range");
        let limit = u64::MAX - u64::MAX % n;
        loop {
            let bits = self.bits();
            if bits < limit {
                return bits % n;
            }
        }
    }

    /// Uniform in low..=high.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        low + self.below((high - low + 1) as u64) as i64
    }

    pub fn choose<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    /// Standard normal (Box-Muller, one of the pair).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Fisher-Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

fn philox4x32_10(mut c: [u32; 4], mut k: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(c[0]) * 0xD251_1F53;
        let b = u64::from(c[2]) * 0xCD9E_8D57;
        c = [(b >> 32) as u32 ^ c[1] ^ k[0], b as u32, (a >> 32) as u32 ^ c[3] ^ k[1], a as u32];
        k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the Random123 distribution (kat_vectors, philox4x32 10 rounds).
    #[test]
    fn philox_known_answers() {
        assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32_10([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn coordinates_are_length_prefixed() {
        assert_ne!(Stream::at(1, &[b"ab", b"c"]), Stream::at(1, &[b"a", b"bc"]));
        assert_ne!(Stream::at(1, &[b"a"]), Stream::at(2, &[b"a"]));
    }

    #[test]
    fn uniform_mean_and_range() {
        let mut cursor = Stream::at(7, &[b"test"]).cursor();
        let draws: Vec<f64> = (0..20_000).map(|_| cursor.uniform()).collect();
        assert!(draws.iter().all(|u| (0.0..1.0).contains(u)));
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        assert!((mean - 0.5).abs() < 0.01, "mean {mean}");
    }
}
