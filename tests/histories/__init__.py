"""Histories that broke earlier drafts of the design, each one deterministic test: who did what when, and what stands at the vendor.

Those marked (broker) run on a real Kafka, because only that shows them. The laws are those of docs/laws.md. Each was seen to fail
with the line broken that guards it; what else holds there is told by the tests beside the code.

| History | Test | Law |
|---|---|---|
| a late processor emits version 1 after its successor emitted 2 and the account was braked | `test_processors.py::test_a_late_processor_emits_version_1_after_its_successor_emitted_2_and_the_account_was_braked` | 3, 4 |
| an owner that lost its slot still runs a task and commits with fresh metadata | `test_ownership.py::test_an_owner_that_lost_its_slot_still_runs_a_task_and_commits_with_fresh_metadata` (broker) | 3, 21 |
| a peer's open transaction hides an intent from the new owner | `test_ownership.py::test_a_peers_open_transaction_hides_an_intent_from_the_new_owner` (broker) | 5 |
| a customer command and an order that embeds the same customer run at once | `test_sinks.py::test_a_customer_command_and_an_order_that_embeds_the_same_customer_run_at_once` | 7 |
| two first orders with one e-mail | `test_sinks.py::test_two_first_orders_with_one_e_mail` | 7 |
| a newer version arrives while a create's answer is lost | `test_sinks.py::test_a_newer_version_arrives_while_a_creates_answer_is_lost` | 6 |
| the vendor's search lags behind its create | `test_sinks.py::test_the_vendors_search_lags_behind_its_create` | 6 |
| a person edits between our write and our read-back | `test_sinks.py::test_a_person_edits_between_our_write_and_our_read_back` | 9 |
| our own create is polled before its outcome is committed | `test_pollers.py::test_our_own_create_is_polled_before_its_outcome_is_committed` | 9 |
| vendor versions restart ("10" < "9", a moved division) | `test_pollers.py::test_vendor_versions_restart` | 3 |
| an order is cancelled while its paid version is parked | `test_sinks.py::test_an_order_is_cancelled_while_its_paid_version_is_parked` | 4 |
| a flow is added while a processor still has the old configuration | `test_configuration.py::test_a_flow_is_added_while_a_processor_still_has_the_old_configuration` (broker) | 18, 19 |
| an account paused for 100 days | `test_sinks.py::test_an_account_paused_for_100_days` | 7, 18 |
| a subject key not yet seen against one erased | `test_privacy.py::test_a_subject_key_not_yet_seen_against_one_erased` | 20 |
| two pollers making keys for one subject | `test_privacy.py::test_two_pollers_make_keys_for_one_subject` | 20 |
| a token refresh frozen before its POST | `test_grants.py::test_a_token_refresh_frozen_before_its_post`, `test_grants.py::test_a_token_refresh_frozen_before_its_post_on_a_broker` (broker) | 12 |
| a mapping fixed while raw bytes stay equal | `test_pollers.py::test_a_mapping_is_fixed_while_raw_bytes_stay_equal` | 1 |
| a cache older than the tombstones | `test_ownership.py::test_a_cache_older_than_the_tombstones` | 22 |
| a bug on one record that would crash every owner in turn | `test_sinks.py::test_a_bug_on_one_record_that_would_crash_every_owner_in_turn` | 10 |
| two sinks linking one pair differently | `test_sinks.py::test_two_sinks_link_one_pair_differently` | 7, 16 |
| a connection renamed | `test_configuration.py::test_a_connection_renamed` | 19 |
"""  # noqa: E501
