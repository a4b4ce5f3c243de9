// SPDX-License-Identifier: GPL-2.0

//! The driver's words, as the module's core defines them, and those a newer driver may have.

use serde::Serialize;
use serde::Serializer;
use std::fmt;
use virtio_mem_core::vocabulary::Reason;
use virtio_mem_core::vocabulary::State;

/// Words of which the core knows a list.
pub(crate) trait Vocabulary: Copy + fmt::Display {
    /// The word's meaning, if it is in the list.
    fn parse(word: &str) -> Option<Self>;
}

impl Vocabulary for State {
    fn parse(word: &str) -> Option<Self> {
        Self::parse(word)
    }
}

impl Vocabulary for Reason {
    fn parse(word: &str) -> Option<Self> {
        Self::parse(word)
    }
}

/// A word that stands where one of a vocabulary is expected.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Word<T> {
    /// One of the vocabulary.
    Known(T),
    /// One that only a newer driver knows.
    New(String),
}

impl<T: Vocabulary> Word<T> {
    /// Takes a word for what it means.
    pub(crate) fn new(word: String) -> Self {
        match T::parse(&word) {
            Some(known) => Self::Known(known),
            None => Self::New(word),
        }
    }

    /// What it means, if that is known.
    pub(crate) fn known(&self) -> Option<T> {
        match self {
            Self::Known(known) => Some(*known),
            Self::New(_) => None,
        }
    }
}

impl<T: Vocabulary> fmt::Display for Word<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(known) => known.fmt(f),
            Self::New(word) => f.write_str(word),
        }
    }
}

impl<T: Vocabulary> Serialize for Word<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_words_come_back() {
        for state in State::ALL {
            assert_eq!(
                Word::new(state.to_string()).known(),
                Some(*state),
                "{state}"
            );
        }
        for reason in Reason::ALL {
            let word = Word::<Reason>::new(reason.to_string());
            assert_eq!(word.known(), Some(*reason));
            assert_eq!(word.to_string(), reason.as_str());
        }
    }

    #[test]
    fn a_new_word_is_kept() {
        let word = Word::<State>::new("sleeping".into());

        assert_eq!(word.known(), None);
        assert_eq!(word.to_string(), "sleeping");
        assert_eq!(serde_json::to_string(&word).unwrap(), "\"sleeping\"");
    }
}
