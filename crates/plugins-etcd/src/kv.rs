//! Keys and their values.

use etcd_client::{DeleteOptions, GetOptions, KeyValue, PutOptions, Txn, TxnResponse};

use crate::EtcdError;
use crate::client::{Again, Etcd};

/// How many keys are asked for at once: etcd answers with all of them in one message.
const PAGE: i64 = 512;

/// What is read in one message at most: a page of the largest values that etcd takes by default.
const MESSAGE_MAX: usize = 1 << 30;

/// Keys with a common beginning, as they were at one revision.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The keys, in order.
    pub items: Vec<KeyValue>,
    /// The revision that they are of.
    pub revision: i64,
}

impl Etcd {
    /// A key, as a majority of the members knows it.
    ///
    /// # Errors
    ///
    /// [`EtcdError`].
    pub async fn get(&self, key: impl Into<Vec<u8>>) -> Result<Option<KeyValue>, EtcdError> {
        Ok(self.list_one(key.into()).await?.items.into_iter().next())
    }

    /// A key and the revision that this is of.
    pub(crate) async fn list_one(&self, key: Vec<u8>) -> Result<Listing, EtcdError> {
        let answer = self.call("get", Again::Always, |client| {
            let key = key.clone();
            async move { client.kv_client().get(key, None).await }
        });
        let mut answer = answer.await?;
        let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        Ok(Listing { items: answer.take_kvs(), revision })
    }

    /// All keys that begin with `prefix`, as they were at one moment, read in pages.
    ///
    /// # Errors
    ///
    /// [`EtcdError`]; [`EtcdError::Compacted`] if etcd was compacted between two pages.
    pub async fn list(&self, prefix: impl Into<Vec<u8>>) -> Result<Listing, EtcdError> {
        let prefix = prefix.into();
        let end = end_of(&prefix);
        let mut listing = Listing::default();
        let mut from = prefix;
        loop {
            let page = self.call("list", Again::Always, |client| {
                let options = GetOptions::new()
                    .with_range(end.clone())
                    .with_limit(PAGE)
                    .with_revision(listing.revision);
                let from = from.clone();
                async move {
                    client.kv_client().max_decoding_message_size(MESSAGE_MAX).get(from, Some(options)).await
                }
            });
            let mut page = page.await?;
            if listing.revision == 0 {
                listing.revision = page.header().map_or(0, etcd_client::ResponseHeader::revision);
            }
            let more = page.more();
            listing.items.append(&mut page.take_kvs());
            let Some(last) = listing.items.last().filter(|_| more) else { return Ok(listing) };
            // The next key that there can be.
            from = [last.key(), b"\0"].concat();
        }
    }

    /// Writes a key, and gives the revision that it has then.
    ///
    /// An attempt whose answer got lost is made again, so that the value may be written twice: what somebody
    /// else wrote in between is then gone. Where that matters, use a [`transaction`](Self::transaction).
    ///
    /// # Errors
    ///
    /// [`EtcdError`]; after [`EtcdError::Unreachable`] the value may have been written.
    pub async fn put(&self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Result<i64, EtcdError> {
        self.put_with(key.into(), value.into(), None).await
    }

    /// The same for a key that goes when a lease ends.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put); [`EtcdError::LeaseEnded`].
    pub async fn put_leased(
        &self,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
        lease: i64,
    ) -> Result<i64, EtcdError> {
        self.put_with(key.into(), value.into(), Some(PutOptions::new().with_lease(lease))).await
    }

    async fn put_with(
        &self,
        key: Vec<u8>,
        value: Vec<u8>,
        options: Option<PutOptions>,
    ) -> Result<i64, EtcdError> {
        let answer = self.call("put", Again::Always, |client| {
            let (key, value, options) = (key.clone(), value.clone(), options.clone());
            async move { client.kv_client().put(key, value, options).await }
        });
        Ok(answer.await?.header().map_or(0, etcd_client::ResponseHeader::revision))
    }

    /// Removes a key, and says whether it was there. An attempt whose answer got lost is made again, and then
    /// finds nothing.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub async fn delete(&self, key: impl Into<Vec<u8>>) -> Result<bool, EtcdError> {
        Ok(self.delete_with(key.into(), None).await? > 0)
    }

    /// Removes all keys that begin with `prefix`, and says how many there were.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub async fn delete_prefix(&self, prefix: impl Into<Vec<u8>>) -> Result<i64, EtcdError> {
        self.delete_with(prefix.into(), Some(DeleteOptions::new().with_prefix())).await
    }

    async fn delete_with(&self, key: Vec<u8>, options: Option<DeleteOptions>) -> Result<i64, EtcdError> {
        let answer = self.call("delete", Again::Always, |client| {
            let (key, options) = (key.clone(), options.clone());
            async move { client.kv_client().delete(key, options).await }
        });
        Ok(answer.await?.deleted())
    }

    /// Compares, and then makes one list of changes or the other, all of it or nothing.
    ///
    /// It is tried again only where it was surely not made, so that nothing is done twice.
    ///
    /// # Errors
    ///
    /// [`EtcdError`]; after [`EtcdError::Uncertain`] it may have been made.
    pub async fn transaction(&self, transaction: Txn) -> Result<TxnResponse, EtcdError> {
        self.transact(Again::Unapplied, &transaction).await
    }

    /// The same for a transaction that comes to the same when it is made twice, such as one that begins by
    /// comparing what it changes: it is tried again wherever another attempt may succeed.
    ///
    /// # Errors
    ///
    /// [`EtcdError`]; after [`EtcdError::Unreachable`] it may have been made.
    pub async fn transaction_again(&self, transaction: Txn) -> Result<TxnResponse, EtcdError> {
        self.transact(Again::Always, &transaction).await
    }

    async fn transact(&self, again: Again, transaction: &Txn) -> Result<TxnResponse, EtcdError> {
        self.call("transaction", again, |client| {
            let transaction = transaction.clone();
            async move { client.kv_client().max_decoding_message_size(MESSAGE_MAX).txn(transaction).await }
        })
        .await
    }
}

/// The first key behind all that begin with `prefix`; `\0`, which stands for the end of all keys, where there
/// is none.
pub(crate) fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end;
        }
    }
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_first_key_behind_it() {
        for (prefix, end) in
            [(&b"a"[..], &b"b"[..]), (b"a\xff", b"b"), (b"\xff", b"\0"), (b"", b"\0"), (b"/a/", b"/a0")]
        {
            assert_eq!(end_of(prefix), end);
        }
    }
}
