//! What a whole file can be written as: llama.cpp's names and numbers.

use ostro_kernels::DType;

/// A type of file: most tensors in one type, some in better ones ([`super::mix`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, missing_docs, reason = "the names are llama.cpp's")]
pub enum FileType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q2_K_S,
    Q3_K_S,
    Q3_K_M,
    Q3_K_L,
    Q4_K_S,
    Q4_K_M,
    Q5_K_S,
    Q5_K_M,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
    MXFP4_MOE,
}

/// Name, `general.file_type`, and the type that most tensors get. (`llama_ftype` of llama.cpp)
const TABLE: &[(FileType, &str, u32, DType)] = &[
    (FileType::F32, "F32", 0, DType::F32),
    (FileType::F16, "F16", 1, DType::F16),
    (FileType::BF16, "BF16", 32, DType::BF16),
    (FileType::Q8_0, "Q8_0", 7, DType::Q8_0),
    (FileType::Q6_K, "Q6_K", 18, DType::Q6_K),
    (FileType::Q5_K_M, "Q5_K_M", 17, DType::Q5_K),
    (FileType::Q5_K_S, "Q5_K_S", 16, DType::Q5_K),
    (FileType::Q5_1, "Q5_1", 9, DType::Q5_1),
    (FileType::Q5_0, "Q5_0", 8, DType::Q5_0),
    (FileType::Q4_K_M, "Q4_K_M", 15, DType::Q4_K),
    (FileType::Q4_K_S, "Q4_K_S", 14, DType::Q4_K),
    (FileType::Q4_1, "Q4_1", 3, DType::Q4_1),
    (FileType::Q4_0, "Q4_0", 2, DType::Q4_0),
    (FileType::IQ4_NL, "IQ4_NL", 25, DType::IQ4_NL),
    (FileType::IQ4_XS, "IQ4_XS", 30, DType::IQ4_XS),
    (FileType::Q3_K_L, "Q3_K_L", 13, DType::Q3_K),
    (FileType::Q3_K_M, "Q3_K_M", 12, DType::Q3_K),
    (FileType::Q3_K_S, "Q3_K_S", 11, DType::Q3_K),
    (FileType::Q2_K, "Q2_K", 10, DType::Q2_K),
    (FileType::Q2_K_S, "Q2_K_S", 21, DType::Q2_K),
    (FileType::MXFP4_MOE, "MXFP4_MOE", 38, DType::MXFP4),
];

/// Other names of the same.
const ALIASES: &[(&str, FileType)] = &[
    ("Q3_K", FileType::Q3_K_M),
    ("Q4_K", FileType::Q4_K_M),
    ("Q5_K", FileType::Q5_K_M),
    ("MXFP4", FileType::MXFP4_MOE),
];

impl FileType {
    /// The type by its name, in any case, or by its number.
    pub fn parse(text: &str) -> Option<FileType> {
        let alias = ALIASES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, t)| *t);
        let named = || TABLE.iter().find(|row| row.1.eq_ignore_ascii_case(text)).map(|row| row.0);
        let numbered = || {
            let n: u32 = text.parse().ok()?;
            TABLE.iter().find(|row| row.2 == n).map(|row| row.0)
        };
        alias.or_else(named).or_else(numbered)
    }

    /// All of them, the best first.
    pub fn all() -> impl Iterator<Item = FileType> {
        TABLE.iter().map(|row| row.0)
    }

    fn row(self) -> &'static (FileType, &'static str, u32, DType) {
        TABLE.iter().find(|row| row.0 == self).unwrap_or(&TABLE[0])
    }

    /// llama.cpp's name.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The value of `general.file_type`.
    pub fn id(self) -> u32 {
        self.row().2
    }

    /// The type that most tensors get.
    pub fn dtype(self) -> DType {
        self.row().3
    }

    /// Whether it is one of floats, without blocks.
    pub fn is_float(self) -> bool {
        matches!(self, FileType::F32 | FileType::F16 | FileType::BF16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_found_by_name_and_number() {
        for t in FileType::all() {
            assert_eq!(FileType::parse(&t.name().to_lowercase()), Some(t));
            assert_eq!(FileType::parse(&t.id().to_string()), Some(t));
        }
        for (name, want) in [("q4_k", Some(FileType::Q4_K_M)), ("4", None), ("Q4", None), ("", None)] {
            assert_eq!(FileType::parse(name), want, "{name}");
        }
    }
}
