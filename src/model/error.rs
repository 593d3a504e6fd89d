//! What can be wrong with a header that parses: one line each, naming file, thing, found, expected.

/// Why a file cannot be used as a model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file layer found a key missing or of the wrong type.
    #[error(transparent)]
    Gguf(#[from] crate::gguf::Error),

    /// No architecture file claims this name.
    #[error(
        "{file}: general.architecture: found {found:?}, expected one of {supported}; take a file of one of these, or a newer ostro"
    )]
    UnknownArchitecture {
        /// The file.
        file: String,
        /// The name in the file.
        found: String,
        /// The names that are known, with commas.
        supported: String,
    },

    /// A key holds a value that no forward pass can follow.
    #[error("{file}: {key}: found {found}, expected {expected}; convert the model again with a current converter")]
    Value {
        /// The file.
        file: String,
        /// The metadata key.
        key: String,
        /// What stands there.
        found: String,
        /// What could stand there.
        expected: String,
    },

    /// The configuration of a checkpoint holds what cannot be converted.
    #[error("{file}: {key}: found {found}, expected {expected}; correct the file, or download it again")]
    Config {
        /// The file.
        file: String,
        /// The key.
        key: String,
        /// What stands there.
        found: String,
        /// What could stand there.
        expected: String,
    },

    /// A tensor that the model needs is not in the file.
    #[error(
        "{file}: tensor {name}: found nothing, expected shape {expected}; the file is incomplete: download or convert it again"
    )]
    MissingTensor {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// Its shape, fastest dimension first.
        expected: String,
    },

    /// A tensor has another shape than the metadata says.
    #[error("{file}: tensor {name}: shape {found}, expected {expected}; the file contradicts itself: convert it again")]
    Shape {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// Its shape in the file, fastest dimension first.
        found: String,
        /// The shape that follows from the metadata.
        expected: String,
    },

    /// A tensor's type cannot be computed with.
    #[error(
        "{file}: tensor {name}: found type {found}, expected {expected}; convert the model again with a current converter"
    )]
    Type {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
        /// Types that can stand there.
        expected: &'static str,
    },

    /// Tensors that nothing claims: the model would be computed without them, so wrongly.
    #[error(
        "{file}: tensor {name}: found, expected only tensors that architecture {arch} uses ({count} are not); it needs a newer ostro"
    )]
    Unclaimed {
        /// The file.
        file: String,
        /// The first such tensor.
        name: String,
        /// The architecture's name.
        arch: String,
        /// How many there are.
        count: usize,
    },
}
