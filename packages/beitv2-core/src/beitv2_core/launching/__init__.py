# SPDX-License-Identifier: Apache-2.0
"""`beitv2 launch`: a job of several processes that is started again when one of them is lost; costs no Paddle."""
