"""
Accounts, tokens, and leave to listen.

Other features may use `models.User` to refer to accounts and `views.user_view` to show one.
"""
