"""The application's half: holders of one of API_TOKENS open, enter and end verifications over HTTP."""
